// The chat: one thread of turns, each a question with one or two answers beside each other.

import { AnswerCard, element, icon } from "./answer.js";
import { watchHealth } from "./health.js";
import { Sources } from "./panel.js";
import { ChatSocket } from "./socket.js";

const root = document.getElementById("chat");
const facts = JSON.parse(document.getElementById("chat-facts").textContent);
const thread = document.getElementById("thread");
const form = document.getElementById("composer");
const box = document.getElementById("question");
const announce = document.getElementById("announcement");
const state = document.getElementById("connection");
const heading = document.getElementById("conversation-title"); // what the welcome's heading is before the first turn
const list = document.getElementById("conversations");
const filter = document.getElementById("conversation-filter");
const picker = document.getElementById("chat-collection");
const PANES = ["left", "right"];
const VERDICTS = [["left", "Left is better"], ["right", "Right is better"], ["tie", "A tie"], ["both_bad", "Both are bad"]];

const cards = new Map(); // request id → card
const turns = new Map(); // number → {node, question, answers}
const pending = new Map(); // reference → turn that waits for its ids
let conversation = facts.conversation;
let reference = 0;

const csrf = () => JSON.parse(document.body.getAttribute("hx-headers") ?? "{}")["X-CSRFToken"] ?? "";

async function api(method, path, body) {
  const answer = await fetch(path, {
    method,
    headers: { Accept: "application/json", "Content-Type": "application/json", "X-CSRFToken": csrf() },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const content = answer.status === 204 ? null : await answer.json().catch(() => null);
  if (!answer.ok) throw new Error(content?.detail ?? "The server can't be reached. Try again in a moment.");
  return content;
}

const fault = (text) => document.dispatchEvent(new CustomEvent("zenglow:fault", { detail: text }));
const guarded = (work) => async (...given) => {
  try {
    return await work(...given);
  } catch (error) {
    fault(error.message);
  }
};

// --- agents and panes ----

const selects = Object.fromEntries(PANES.map((pane) => [pane, document.getElementById(`agent-${pane}`)]));
const both = document.getElementById("two-panes");

function chosenPanes() {
  return both.checked ? PANES : ["left"];
}

function setPanes() {
  root.classList.toggle("is-double", both.checked);
  selects.right.closest("label").hidden = !both.checked;
  localStorage.setItem("zenglow.chat.two", both.checked ? "1" : "");
}

for (const pane of PANES) {
  const kept = localStorage.getItem(`zenglow.chat.agent.${pane}`);
  if (kept && facts.agents.some((agent) => agent.slug === kept)) selects[pane].value = kept;
  selects[pane].addEventListener("change", () => localStorage.setItem(`zenglow.chat.agent.${pane}`, selects[pane].value));
}
both.checked = localStorage.getItem("zenglow.chat.two") === "1";
both.addEventListener("change", setPanes);

// --- what cards ask of the page ----

const sources = new Sources(document.getElementById("source-panel"), document.getElementById("cite-card"));
const page = {
  isOwn: facts.is_own,
  agentName: (slug) => facts.agents.find((agent) => agent.slug === slug)?.name ?? slug,
  openPassage: (citation, trigger) => sources.open(citation, trigger),
  showCard: (citation, trigger) => sources.show(citation, trigger),
  hideCard: () => sources.hide(),
  stop: (card) => socket.send({ type: "stop", answer: card.requestId }),
  retry: (card) => ask(turns.get(card.turn).question, card.turn),
};

// --- turns ----

function addTurn(question, panes) {
  const grid = element("div", { class: "answers" });
  const said = element("div", { class: "question" }, element("p", { text: question }));
  const node = element("li", { class: "turn" }, said, grid);
  const turn = { node, grid, said, question, cards: {}, number: null };
  if (facts.is_own) {
    said.append(
      element("button", { type: "button", class: "button quiet small icon-only edit", "aria-label": "Edit this question", onclick: () => edit(turn) }, icon("edit")),
    );
  }
  for (const pane of panes) grid.append(element("div", { class: "card answer-card is-waiting", "data-waiting": pane }, element("span", { class: "spinner" }), element("span", { class: "faint small", text: "Sending …" })));
  grid.classList.toggle("is-double", panes.length > 1);
  thread.append(node);
  root.classList.add("has-turns");
  heading.textContent = conversation?.title || question;
  heading.hidden = false;
  return turn;
}

function dropFrom(number) {
  for (const [own, turn] of [...turns]) {
    if (own < number) continue;
    for (const card of Object.values(turn.cards)) cards.delete(card.requestId);
    turn.node.remove();
    turns.delete(own);
  }
}

function ask(question, replaced = null) {
  const text = question.trim();
  if (!text) return;
  if (text.length > facts.max_characters) {
    fault(`A question may have ${facts.max_characters} characters. Index a long text as a document instead.`);
    return;
  }
  if (replaced !== null) dropFrom(replaced);
  const panes = chosenPanes();
  const turn = addTurn(text, panes);
  reference += 1;
  pending.set(reference, turn);
  turn.reference = reference;
  socket.send({
    type: "ask",
    reference,
    question: text,
    collection: picker?.value ?? "",
    conversation: conversation?.id ?? null,
    turn: replaced,
    panes: Object.fromEntries(panes.map((pane) => [pane, selects[pane].value])),
  });
  turn.node.scrollIntoView({ block: "start", behavior: "smooth" });
  announce.textContent = "Question sent.";
}

function asked(message) {
  const turn = pending.get(message.reference);
  if (!turn) return;
  pending.delete(message.reference);
  turn.number = message.turn;
  turns.set(message.turn, turn);
  turn.grid.replaceChildren();
  for (const pane of PANES.filter((one) => message.answers[one])) {
    addCard(turn, pane, selects[pane].value, message.answers[pane]);
  }
  const isNew = conversation === null;
  conversation = { ...(conversation ?? {}), id: message.conversation, title: message.title };
  if (isNew) history.replaceState(null, "", `/c/${conversation.id}/`);
  showConversation();
  loadList();
}

function addCard(turn, pane, agent, requestId) {
  const card = new AnswerCard(page, turn.number, pane, agent, requestId);
  cards.set(requestId, card);
  turn.cards[pane] = card;
  turn.grid.append(card.node);
  return card;
}

function showVerdicts(turn, given) {
  if (!facts.may_vote || turn.bar || Object.keys(turn.cards).length < 2) return;
  if (Object.values(turn.cards).some((card) => card.isWriting || !card.text)) return;
  const bar = element("div", { class: "verdicts row", role: "group", "aria-label": "Which answer is better?" }, element("span", { class: "faint small", text: "Which is better?" }));
  const press = (verdict) => {
    for (const button of bar.querySelectorAll("button")) button.setAttribute("aria-pressed", String(button.value === verdict));
  };
  for (const [verdict, label] of VERDICTS) {
    const button = element("button", { type: "button", class: "button small", value: verdict, "aria-pressed": "false", text: label });
    button.addEventListener("click", guarded(async () => {
      await api("POST", `/rag/conversations/${conversation.id}/verdicts`, { turn: turn.number, verdict });
      press(verdict);
      announce.textContent = `Noted: ${label}.`;
    }));
    bar.append(button);
  }
  press(given);
  turn.bar = bar;
  turn.node.append(bar);
}

function edit(turn) {
  if (turn.number === null) return;
  const area = element("textarea", { rows: "3", "aria-label": "Edit the question" });
  area.value = turn.question;
  const close = () => turn.said.replaceChildren(...kept);
  const kept = [...turn.said.childNodes];
  const send = () => ask(area.value, turn.number);
  turn.said.replaceChildren(
    area,
    element("div", { class: "row" },
      element("button", { type: "button", class: "button primary small", text: "Ask again", onclick: send }),
      element("button", { type: "button", class: "button quiet small", text: "Cancel", onclick: close })),
  );
  area.addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      send();
    }
  });
  area.focus();
}

// --- the connection ----

const socket = new ChatSocket("/ws/chat", {
  onState(kind, text) {
    state.hidden = kind === "open";
    state.textContent = text;
  },
  // A question that was on its way may have arrived or not: asking it twice is left to whoever asked.
  onClosed(waiting) {
    for (const [sent, turn] of [...pending]) {
      if (waiting.some((message) => message.reference === sent)) continue;
      pending.delete(sent);
      turn.node.remove();
      box.value ||= turn.question;
      fault("The connection broke before your question was answered for. It is in the box again.");
    }
  },
  onMessage(message) {
    if (message.type === "asked") asked(message);
    else if (message.type === "event") {
      const card = cards.get(message.answer);
      if (!card) return;
      card.handle(message.event, message.data);
      if (message.event === "done" || message.event === "error") ended(card);
    } else if (message.type === "gone") {
      recover(message.answer);
    } else if (message.type === "problem" || message.status) {
      const waiting = [...pending.values()].at(-1);
      const problem = message.problem ?? message;
      fault(problem.detail || problem.title);
      if (waiting) {
        pending.delete(waiting.reference);
        waiting.node.remove();
        box.value ||= waiting.question;
      }
    }
  },
});

function ended(card) {
  const turn = turns.get(card.turn);
  announce.textContent = `${page.agentName(card.agent)} has answered.`;
  if (turn) showVerdicts(turn, null);
}

// An answer whose events are no longer kept was stored: it is read from there.
const recover = guarded(async (requestId) => {
  const card = cards.get(requestId);
  if (!card?.isWriting || !conversation) return;
  const whole = await api("GET", `/rag/conversations/${conversation.id}`);
  for (const turn of whole.turns) {
    for (const one of Object.values(turn.answers)) {
      if (one.request_id === requestId) card.finish(one.answer, one.failure || (one.answer ? "" : "This answer was lost. Try again."));
    }
  }
  ended(card);
});

// --- conversations ----

function showConversation() {
  const tools = document.getElementById("conversation-tools");
  tools.hidden = !conversation || !facts.is_own;
  if (!conversation) return;
  document.title = `${conversation.title} · ZenGlow`;
  document.getElementById("export").href = `/rag/conversations/${conversation.id}`;
  const button = document.getElementById("share");
  button.setAttribute("aria-pressed", String(Boolean(conversation.share_id)));
  button.querySelector("span").textContent = conversation.share_id ? "Shared" : "Share";
}

const loadList = guarded(async () => {
  if (!list) return;
  const query = filter.value.trim();
  const { conversations } = await api("GET", `/rag/conversations${query ? `?q=${encodeURIComponent(query)}` : ""}`);
  list.replaceChildren(
    ...conversations.map((one) => {
      const current = one.id === conversation?.id;
      if (current) conversation = { ...conversation, share_id: one.share_id };
      return element("li", {}, element("a", { href: `/c/${one.id}/`, text: one.title || "Untitled", title: one.title, "aria-current": current ? "page" : null }));
    }),
  );
  if (!conversations.length) list.append(element("li", { class: "faint small", text: query ? "No conversation says this." : "Your conversations will be here." }));
  showConversation();
});

let typing;
filter?.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(loadList, 200);
});

document.getElementById("share").addEventListener("click", guarded(async () => {
  const changed = await api("PATCH", `/rag/conversations/${conversation.id}`, { shared: !conversation.share_id });
  conversation.share_id = changed.share_id;
  showConversation();
  if (changed.share_id) {
    const address = new URL(`/shared/${changed.share_id}/`, location.href).href;
    await navigator.clipboard?.writeText(address).catch(() => {});
    announce.textContent = "Shared. The link was copied.";
    fault(`Shared. Others who may read the sources can open ${address}`);
  }
}));

document.getElementById("delete").addEventListener("click", () => document.getElementById("delete-dialog").showModal());
document.getElementById("delete-dialog").addEventListener("close", guarded(async (event) => {
  if (event.target.returnValue !== "delete") return;
  await api("DELETE", `/rag/conversations/${conversation.id}`);
  location.assign("/");
}));

// --- asking ----

function fit() {
  box.style.height = "auto";
  box.style.height = `${Math.min(box.scrollHeight, 220)}px`;
}

form?.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = box.value;
  if (!text.trim()) return;
  box.value = "";
  fit();
  ask(text);
});
box?.addEventListener("input", fit);
box?.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    form.requestSubmit();
  } else if (event.key === "ArrowUp" && !box.value && turns.size) {
    event.preventDefault();
    edit([...turns.values()].at(-1));
  }
});
for (const example of document.querySelectorAll("[data-example]")) {
  example.addEventListener("click", () => {
    box.value = example.dataset.example;
    form.requestSubmit();
  });
}

document.getElementById("toggle-list").addEventListener("click", (event) => {
  const open = root.classList.toggle("shows-list");
  event.currentTarget.setAttribute("aria-expanded", String(open));
});

document.addEventListener("keydown", (event) => {
  if (event.isComposing || event.target.closest?.("dialog")) return;
  if (event.key === "Escape") {
    const writing = [...cards.values()].filter((card) => card.isWriting);
    if (!sources.close() && writing.length) for (const card of writing) page.stop(card);
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches?.("input, select, textarea, [contenteditable]")) return;
  if (event.key === "n") location.assign("/");
  else if (event.key === "2") both.click();
  else if (event.key === "h") document.getElementById("toggle-list").click();
});

// --- what is there already ----

for (const one of facts.turns) {
  const panes = PANES.filter((pane) => one.answers[pane]);
  const turn = addTurn(one.question, panes);
  turn.number = one.turn;
  turns.set(one.turn, turn);
  turn.grid.replaceChildren();
  for (const pane of panes) {
    const kept = one.answers[pane];
    const card = addCard(turn, pane, kept.agent, kept.request_id);
    if (kept.state === "writing" && facts.is_own) socket.follow(kept.request_id);
    else card.finish(kept.answer, kept.failure || (kept.answer ? "" : "This answer was lost. Try again."));
  }
  showVerdicts(turn, one.verdict);
}
if (facts.turns.length) {
  const last = facts.turns.at(-1);
  both.checked = Object.keys(last.answers).length > 1;
  for (const pane of PANES) if (last.answers[pane]) selects[pane].value = last.answers[pane].agent;
}
setPanes();
showConversation();
if (facts.is_own) loadList();
const pill = document.getElementById("health");
if (pill) watchHealth(pill);
if (box?.value) form.requestSubmit();
root.dataset.ready = "1";
