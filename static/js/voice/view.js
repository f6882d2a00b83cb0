// What is seen of a conversation: captions, passages, the split of the time. Text of others is only ever text.
const by = (id) => document.getElementById(id);
const element = (name, className, text) => Object.assign(document.createElement(name), { className: className ?? "", textContent: text ?? "" });

const STATES = {
  off: "Not listening",
  connecting: "One moment …",
  listening: "Listening",
  endpointing: "Have you finished?",
  thinking: "Looking it up …",
  speaking: "Speaking",
  interrupted: "Go ahead",
  resuming: "Shall I go on?",
};
const ASIDES = { stop: "Stopped.", stopped: "Stopped.", backchannel: "", noise: "", nothing: "", declined: "All right." };
const PARTS = [
  ["endpoint_ms", "End noticed"],
  ["transcript_ms", "Understood"],
  ["retrieval_ms", "Found"],
  ["first_token_ms", "First word"],
  ["first_audio_ms", "First sound"],
];

export class View {
  constructor(root) {
    this.root = root;
    this.sentences = [];
    this.wave = [];
  }

  state(name, text) {
    this.root.dataset.state = name;
    by("state").textContent = text ?? STATES[name] ?? name;
  }

  trouble(title, text) {
    by("trouble").hidden = !title;
    by("trouble-title").textContent = title ?? "";
    by("trouble-text").textContent = text ?? "";
  }

  level(level) {
    const shown = Math.max(0, Math.min(1, (20 * Math.log10(level + 1e-6) + 60) / 55));
    by("level").value = Math.round(shown * 100);
    this.root.style.setProperty("--loud", shown.toFixed(2));
    this.wave.push(shown);
    if (this.wave.length > 120) this.wave.shift();
    if (!this.drawing) {
      this.drawing = true;
      requestAnimationFrame(() => this.draw());
    }
  }

  draw() {
    this.drawing = false;
    const canvas = by("wave");
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.fillStyle = getComputedStyle(canvas).color;
    this.wave.forEach((value, index) => {
      const height = Math.max(2, value * canvas.height * 0.9);
      pen.fillRect(index * 4, (canvas.height - height) / 2, 2.5, height);
    });
  }

  // --- captions ----

  heard(text, isFinal) {
    by("nothing-yet")?.remove();
    this.said ??= by("captions").appendChild(element("li", "said partial"));
    this.said.textContent = text;
    if (isFinal) {
      this.said.classList.remove("partial");
      this.said = null;
    }
    this.said?.scrollIntoView({ block: "nearest" });
  }

  ignored(reason) {
    if (this.said) this.said.remove();
    this.said = null;
    if (ASIDES[reason]) this.aside(ASIDES[reason]);
  }

  aside(text) {
    by("captions").appendChild(element("li", "aside", text));
  }

  turn(message) {
    by("nothing-yet")?.remove();
    if (![...by("captions").children].some((line) => line.dataset.turn === String(message.turn))) {
      if (!by("captions").lastElementChild?.classList.contains("said")) by("captions").appendChild(element("li", "said", message.text));
    }
    this.reply = null;
    this.sentences = [];
  }

  sentence({ text, position, turn }) {
    if (!this.reply || this.reply.dataset.turn !== String(turn)) {
      this.reply = by("captions").appendChild(element("li", "reply"));
      this.reply.dataset.turn = turn;
      this.sentences = [];
    }
    const span = element("span", "unheard", text);
    this.reply.append(span, " ");
    this.sentences.push({ span, position, text });
    this.reply.scrollIntoView({ block: "nearest" });
  }

  played(position) {
    const current = this.sentences.filter((one) => one.position <= position).at(-1);
    for (const one of this.sentences) {
      one.span.classList.toggle("now", one === current && this.root.dataset.state === "speaking");
      if (one.position <= position) one.span.classList.remove("unheard");
    }
    if (current && current !== this.current) {
      this.current = current;
      const cited = new Set([...current.text.matchAll(/\[(\d+)\]/g)].map((match) => match[1]));
      for (const passage of by("passages").querySelectorAll(".passage")) passage.classList.toggle("spoken", cited.has(passage.dataset.number));
    }
  }

  ended({ heard, outcome }) {
    for (const { span } of this.sentences) span.classList.remove("now");
    if (outcome === "interrupted") this.aside(heard ? "You interrupted." : "You interrupted before anything was heard.");
    this.current = null;
  }

  kept(conversation) {
    by("kept").hidden = !conversation;
    by("kept").dataset.conversation = conversation ?? "";
    by("kept-link").href = `/c/${conversation}/`;
    if (!conversation) this.aside("Deleted. What you say next begins a new conversation.");
  }

  // --- sources and time ----

  passages(list) {
    const items = list.map((passage) => {
      const item = element("li", "passage");
      item.dataset.number = passage.number;
      const page = passage.page ? `, page ${passage.page}` : "";
      item.append(element("h3", "", `[${passage.number}] ${passage.title || passage.source || passage.document_id}${page}`), element("p", "", passage.text));
      return item;
    });
    by("passages").replaceChildren(...(items.length ? items : [element("li", "muted", "Nothing was found that answers this.")]));
  }

  latency(figures) {
    const longest = Math.max(figures.first_audio_ms, 1);
    const rows = PARTS.filter(([name]) => figures[name] !== null).map(([name, label]) => {
      const row = element("div", "row");
      const bar = Object.assign(element("progress"), { max: longest, value: Math.max(figures[name], 0) });
      bar.setAttribute("aria-hidden", "true");
      row.append(element("dt", "", label), bar, element("dd", "", `${Math.round(figures[name])} ms`));
      return row;
    });
    by("latency").replaceChildren(...rows);
  }
}
