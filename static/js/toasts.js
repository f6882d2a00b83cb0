// Toasts leave by themselves, but not while somebody points at them or has the focus in them.

const LIFETIME_MS = 10_000;
const toasts = document.getElementById("toasts");

function watch(toast) {
  let timer;
  const start = () => {
    clearTimeout(timer);
    timer = setTimeout(() => toast.remove(), LIFETIME_MS);
  };
  const hold = () => clearTimeout(timer);
  toast.addEventListener("pointerenter", hold);
  toast.addEventListener("pointerleave", start);
  toast.addEventListener("focusin", hold);
  toast.addEventListener("focusout", start);
  start();
}

for (const toast of toasts.children) watch(toast);
new MutationObserver((changes) => {
  for (const change of changes) {
    for (const node of change.addedNodes) {
      if (node.nodeType === Node.ELEMENT_NODE) watch(node);
    }
  }
}).observe(toasts, { childList: true });

toasts.addEventListener("click", (event) => {
  if (event.target.closest("[data-close]")) event.target.closest("#toasts > *").remove();
});

function say(text) {
  const template = document.getElementById("toast-template");
  const toast = template.content.firstElementChild.cloneNode(true);
  toast.classList.add("bad");
  toast.firstElementChild.textContent = text;
  toasts.append(toast);
}

document.addEventListener("zenglow:fault", (event) => say(event.detail));
document.addEventListener("htmx:sendError", () => say("The server can't be reached. Check that it runs, then try again."));
document.addEventListener("htmx:timeout", () => say("The server took too long to answer. Try again."));
