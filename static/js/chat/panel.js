// Where an answer comes from: a card while one points at a citation, and a panel with the passage in its document.

import { element } from "./answer.js";

export class Sources {
  constructor(panel, card) {
    this.panel = panel;
    this.card = card;
    this.content = panel.querySelector("[data-panel-content]");
    panel.querySelector("[data-close-panel]").addEventListener("click", () => this.close());
    panel.addEventListener("keydown", (event) => event.key === "Escape" && this.close());
  }

  show(citation, trigger) {
    clearTimeout(this.hiding);
    this.card.replaceChildren(
      element("p", { class: "card-title", text: citation.title + (citation.page ? `, page ${citation.page}` : "") }),
      element("p", { class: "card-quote", text: citation.quote }),
      element("p", { class: "faint small", text: "Click to see it in its document" }),
    );
    this.card.hidden = false;
    const at = trigger.getBoundingClientRect();
    const own = this.card.getBoundingClientRect();
    const left = Math.max(8, Math.min(at.left - 20, innerWidth - own.width - 8));
    const top = at.top - own.height - 8 > 70 ? at.top - own.height - 8 : at.bottom + 8;
    this.card.style.left = `${left + scrollX}px`;
    this.card.style.top = `${top + scrollY}px`;
  }

  hide() {
    this.hiding = setTimeout(() => (this.card.hidden = true), 80);
  }

  async open(citation, trigger) {
    this.card.hidden = true;
    this.trigger = trigger;
    this.panel.hidden = false;
    document.body.classList.add("has-panel");
    this.content.setAttribute("aria-busy", "true");
    const url = `/passages/${citation.pk}/?start=${citation.start}&end=${citation.end}`;
    try {
      const answer = await fetch(url, { headers: { Accept: "text/html" } });
      if (!answer.ok) throw new Error(String(answer.status));
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      this.content.replaceChildren(...page.body.children);
    } catch {
      this.content.replaceChildren(
        element("div", { class: "notice bad" }, element("p", { text: "This passage can't be shown: its document may have been changed or removed, or it is not open to you." })),
      );
    }
    this.content.setAttribute("aria-busy", "false");
    this.panel.querySelector("[data-close-panel]").focus({ preventScroll: true });
    const mark = this.content.querySelector("mark");
    if (mark) this.content.scrollTop = mark.offsetTop - this.content.clientHeight / 3;
  }

  close() {
    if (this.panel.hidden) return false;
    this.panel.hidden = true;
    document.body.classList.remove("has-panel");
    this.trigger?.focus({ preventScroll: true });
    return true;
  }
}
