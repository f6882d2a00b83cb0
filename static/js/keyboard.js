// Keys: "/" to the query box, j and k (or arrow keys from the box) through the results, Escape out of menus.

const typing = "input, select, textarea, [contenteditable]";

function resultLinks() {
  return [...document.querySelectorAll("[data-result-link]")];
}

function move(step) {
  const links = resultLinks();
  if (!links.length) return false;
  const at = links.indexOf(document.activeElement);
  if (at === 0 && step < 0) {
    document.querySelector("[data-query]")?.focus();
    return true;
  }
  const next = at < 0 ? (step > 0 ? 0 : -1) : at + step;
  if (next < 0 || next >= links.length) return false;
  links[next].focus();
  return true;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const inBox = event.target.matches?.("[data-query]");

  if (event.key === "Escape") {
    const menu = event.target.closest?.("details.menu[open]");
    if (menu) {
      menu.open = false;
      menu.querySelector("summary").focus();
    } else if (inBox) {
      event.target.blur();
    }
    return;
  }
  if (event.target.closest?.("dialog")) return;
  if (event.target.matches?.(typing)) {
    if (inBox && event.key === "ArrowDown" && move(1)) event.preventDefault();
    return;
  }
  if (event.key === "/") {
    const box = document.querySelector("[data-query]");
    if (box) {
      box.focus();
      box.select();
      event.preventDefault();
    }
  } else if (event.key === "j" || event.key === "k") {
    if (move(event.key === "j" ? 1 : -1)) event.preventDefault();
  }
});

// A menu closes when the pointer or the focus goes elsewhere.
function closeOthers(target) {
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (!menu.contains(target)) menu.open = false;
  }
}
document.addEventListener("pointerdown", (event) => closeOthers(event.target));
document.addEventListener("focusin", (event) => closeOthers(event.target));
