// One agent's answer: written as it comes, then with its sources, its timings and what can be done with it.

import { render, replaceMarks } from "./markdown.js";

const STAGES = [
  ["condense", "Understanding", ["condense_ms"]],
  ["search", "Search", ["embed_ms", "retrieval_ms", "feature_ms", "ltr_ms", "fusion_ms"]],
  ["grounding", "Reading", ["grounding_ms"]],
  ["generation", "Writing", ["generation_ms"]],
  ["support", "Checking", ["support_ms"]],
];
const SVG = "http://www.w3.org/2000/svg";

export function element(tag, options = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name === "class") made.className = value;
    else if (name === "text") made.textContent = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter(Boolean));
  return made;
}

export function icon(name) {
  const source = document.querySelector("[data-icons]").dataset.icons;
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `${source}#${name}`);
  svg.append(use);
  return svg;
}

function milliseconds(value) {
  return value >= 1000 ? `${(value / 1000).toFixed(1)} s` : `${Math.round(value)} ms`;
}

export class AnswerCard {
  // `page`: { agentName(slug), openPassage(citation, trigger), retry(card), stop(card) }
  constructor(page, turn, pane, agent, requestId) {
    Object.assign(this, { page, turn, pane, agent, requestId, text: "", citations: [], passages: [], state: "writing" });
    this.status = element("span", { class: "answer-status faint small", text: "Searching …" });
    this.who = element("span", { class: "answer-who", text: page.agentName(agent) });
    this.body = element("div", { class: "answer-body markdown" });
    this.sources = element("ol", { class: "plain answer-sources", hidden: true, "aria-label": "Sources" });
    this.foot = element("div", { class: "answer-foot" });
    this.notices = element("div", { class: "answer-notices stack" });
    this.node = element(
      "article",
      { class: "card answer-card", "data-pane": pane, "aria-label": `Answer of ${page.agentName(agent)}`, "aria-busy": "true" },
      element("header", { class: "row apart" }, this.who, this.status),
      this.notices,
      this.body,
      this.sources,
      this.foot,
    );
    this.stopButton = element("button", { type: "button", class: "button small", onclick: () => page.stop(this) }, icon("close"), "Stop");
    this.foot.append(this.stopButton);
  }

  get isWriting() {
    return this.state === "writing";
  }

  handle(event, data) {
    if (event === "retrieval") {
      this.passages = data.passages;
      this.status.textContent = data.passages.length ? `Reading ${data.passages.length} passages …` : "Nothing found …";
    } else if (event === "token") {
      this.text += data.text;
      this.status.textContent = "Writing …";
      this.paintSoon();
    } else if (event === "citation") {
      this.citations.push(data.citation);
      this.paintSoon();
    } else if (event === "done") {
      this.finish(data, "");
    } else if (event === "error") {
      this.finish(data.answer, data.problem.detail || data.problem.title);
    }
  }

  paintSoon() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.paint([]);
    });
  }

  paint(weak) {
    const fragment = render(this.text, this.citations, weak.map((sentence) => sentence.end));
    replaceMarks(fragment, (kind, index) => (kind === "citation" ? this.citation(this.citations[index]) : this.weak(weak[index])));
    this.body.replaceChildren(fragment);
  }

  citation(citation) {
    const button = element("button", {
      type: "button",
      class: "cite",
      text: String(citation.number),
      "aria-label": `Source ${citation.number}: ${citation.title}`,
      "data-pk": citation.pk,
    });
    button.addEventListener("click", () => this.page.openPassage(citation, button));
    button.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && this.page.showCard(citation, button));
    button.addEventListener("pointerleave", () => this.page.hideCard());
    button.addEventListener("focus", () => button.matches(":focus-visible") && this.page.showCard(citation, button));
    button.addEventListener("blur", () => this.page.hideCard());
    return button;
  }

  weak(sentence) {
    const text = sentence.citations.length
      ? `Its source hardly says this (support ${sentence.support.toFixed(2)}).`
      : "No source is given for this sentence.";
    return element("span", { class: "weak", title: text, role: "img", "aria-label": text, text: "?" });
  }

  // `answer`: as `POST /rag/query` gives it, or null; `failure`: why it ended too early.
  finish(answer, failure) {
    cancelAnimationFrame(this.frame);
    this.frame = null;
    this.state = failure ? "failed" : "done";
    this.node.setAttribute("aria-busy", "false");
    this.stopButton.remove();
    this.status.textContent = "";
    let weak = [];
    if (answer) {
      Object.assign(this, { text: answer.text, citations: answer.citations, passages: answer.passages, answer });
      weak = answer.sentences.filter((sentence) => !sentence.is_supported);
      this.status.textContent = this.by(answer);
      if (answer.finish_reason === "stopped") this.notice("warn", "You stopped this answer. It is not whole.");
      if (answer.finish_reason === "length") this.notice("warn", "This answer was cut at the longest length of its agent.");
      if (answer.removed_citations) {
        this.notice("warn", `${answer.removed_citations} invented source ${answer.removed_citations === 1 ? "number was" : "numbers were"} removed.`);
      }
    }
    if (failure) this.notice("bad", failure);
    this.paint(weak);
    if (answer) this.showSources();
    this.showFoot(answer);
  }

  by(answer) {
    return answer.model === "extractive" ? "Quoted from your documents" : answer.model.replace(/^(ollama|openai)\//u, "");
  }

  notice(kind, text) {
    this.notices.append(element("div", { class: `notice small ${kind}` }, icon("warning"), element("p", { text })));
  }

  showSources() {
    const cited = new Set(this.citations.map((one) => one.number));
    const passages = this.passages.filter((one) => cited.has(one.number));
    this.sources.hidden = !passages.length;
    this.sources.replaceChildren(
      ...passages.map((passage) => {
        const first = this.citations.find((one) => one.number === passage.number);
        const where = [...new Set(passage.heading_path)].filter((part) => part !== passage.title).join(" › ");
        const button = element(
          "button",
          { type: "button", class: "source" },
          element("span", { class: "source-number", text: String(passage.number) }),
          element("span", { class: "source-title", text: passage.title }),
          where || passage.page ? element("span", { class: "faint small", text: passage.page ? `page ${passage.page}` : where }) : null,
        );
        button.addEventListener("click", () => this.page.openPassage(first, button));
        return element("li", {}, button);
      }),
    );
  }

  showFoot(answer) {
    const tools = element("div", { class: "row answer-tools" });
    if (this.page.isOwn) {
      tools.append(
        element("button", { type: "button", class: "button quiet small", onclick: () => this.page.retry(this) }, icon("refresh"), "Try again"),
      );
    }
    if (this.text) {
      const copy = element("button", { type: "button", class: "button quiet small" }, icon("copy"), element("span", { text: "Copy" }));
      copy.addEventListener("click", async () => {
        await navigator.clipboard.writeText(this.text);
        copy.lastElementChild.textContent = "Copied";
        setTimeout(() => (copy.lastElementChild.textContent = "Copy"), 2000);
      });
      tools.append(copy);
    }
    this.foot.replaceChildren(tools);
    if (answer) this.foot.append(this.timing(answer));
  }

  timing(answer) {
    const parts = STAGES.map(([, label, names], index) => ({
      label,
      number: index + 1,
      ms: names.reduce((sum, name) => sum + (answer.timings_ms[name] ?? 0), 0),
    })).filter((part) => part.ms > 0);
    const whole = parts.reduce((sum, part) => sum + part.ms, 0) || 1;
    const svg = document.createElementNS(SVG, "svg");
    for (const [name, value] of Object.entries({ class: "bar", viewBox: "0 0 100 1", preserveAspectRatio: "none", "aria-hidden": "true" })) {
      svg.setAttribute(name, value);
    }
    let at = 0;
    for (const part of parts) {
      const rectangle = document.createElementNS(SVG, "rect");
      const width = (100 * part.ms) / whole;
      for (const [name, value] of Object.entries({ class: `stage-${part.number}`, x: at, y: 0, width, height: 1 })) {
        rectangle.setAttribute(name, value);
      }
      svg.append(rectangle);
      at += width;
    }
    const legend = element("ul", { class: "plain timing-legend" });
    for (const part of parts) {
      legend.append(element("li", {}, element("span", { class: `dot stage-${part.number}` }), `${part.label} ${milliseconds(part.ms)}`));
    }
    const notes = [...answer.fallbacks, ...answer.degraded.map((part) => `Degraded: ${part}.`)];
    if (answer.standalone_query !== answer.query) notes.unshift(`Searched for: ${answer.standalone_query}`);
    notes.push(`Confidence ${answer.confidence.toFixed(2)}.`);
    const details = element(
      "details",
      { class: "timing" },
      element("summary", { "aria-label": `Answered in ${milliseconds(answer.timings_ms.total_ms ?? whole)}; show the parts` }, svg, element("span", { class: "numeric faint small", text: milliseconds(answer.timings_ms.total_ms ?? whole) })),
      legend,
      element("ul", { class: "plain faint small timing-notes" }, ...notes.map((text) => element("li", { text }))),
    );
    return details;
  }
}
