// Loaded before the first paint, so that the page never flashes in the wrong colours.
(() => {
  const KEY = "zenglow-theme";
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;

  function stored() {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null; // storage is blocked: follow the system
    }
  }

  function apply() {
    root.dataset.theme = stored() ?? (system.matches ? "dark" : "light");
  }

  apply();
  system.addEventListener("change", apply);
  document.addEventListener("click", (event) => {
    if (!event.target.closest?.(".theme-toggle")) return;
    const chosen = root.dataset.theme === "dark" ? "light" : "dark";
    root.dataset.theme = chosen;
    try {
      localStorage.setItem(KEY, chosen);
    } catch {
      // The choice lasts for this page.
    }
  });
})();
