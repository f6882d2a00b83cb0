// Buttons that copy the text of the element that they name.

document.addEventListener("click", async (event) => {
  const button = event.target.closest?.("[data-copy]");
  if (!button) return;
  try {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent.trim());
  } catch {
    document.dispatchEvent(new CustomEvent("zenglow:fault", { detail: "The browser does not allow copying here." }));
    return;
  }
  const before = button.getAttribute("aria-label");
  button.setAttribute("aria-label", "Copied");
  button.classList.add("is-done");
  setTimeout(() => {
    button.setAttribute("aria-label", before);
    button.classList.remove("is-done");
  }, 1600);
});
