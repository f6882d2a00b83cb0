// The connection to /ws/chat: opened again by itself, with every answer that was not whole yet followed from where it
// stopped, so that no word is lost.

const RETRY_MS = [300, 800, 2000, 5000, 10000, 15000];
const HEARTBEAT_MS = 20000;
const SILENCE_MS = 45000;
const FAILURES_BEFORE_SAYING = 2;
const WHY = {
  4401: "You are signed out. Reload the page to sign in again.",
  4403: "You may not ask any more. Ask whoever runs this installation.",
};

export class ChatSocket {
  // `handlers`: onMessage(message), onState("open" | "lost" | "refused", text), onClosed(messages that wait to be sent)
  constructor(path, handlers) {
    this.url = Object.assign(new URL(path, location.href), { protocol: location.protocol === "https:" ? "wss:" : "ws:" });
    this.handlers = handlers;
    this.attempts = 0;
    this.waiting = [];
    this.seen = new Map(); // answer → number of the last event
    addEventListener("online", () => this.open());
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.open());
    this.open();
  }

  get isOpen() {
    return this.socket?.readyState === WebSocket.OPEN;
  }

  open() {
    clearTimeout(this.retry);
    if (this.refused || (this.socket && this.socket.readyState <= WebSocket.OPEN)) return;
    const socket = (this.socket = new WebSocket(this.url));
    socket.addEventListener("open", () => this.opened(socket));
    socket.addEventListener("message", (event) => this.heard(socket, JSON.parse(event.data)));
    socket.addEventListener("close", (event) => this.closed(socket, event.code));
    this.expect(socket);
  }

  opened(socket) {
    this.attempts = 0;
    this.handlers.onState("open", "");
    for (const [answer, after] of this.seen) this.write({ type: "follow", answer, after });
    for (const message of this.waiting.splice(0)) this.write(message);
    clearInterval(this.heartbeat);
    this.heartbeat = setInterval(() => this.write({ type: "ping" }), HEARTBEAT_MS);
    this.expect(socket);
  }

  heard(socket, message) {
    this.expect(socket);
    if (message.type === "pong") return;
    if (message.type === "asked") for (const answer of Object.values(message.answers)) this.seen.set(answer, 0);
    if (message.type === "event") {
      const last = this.seen.get(message.answer);
      if (last === undefined || message.number <= last) return; // heard before the connection broke
      this.seen.set(message.answer, message.number);
      if (message.event === "done" || message.event === "error") this.seen.delete(message.answer);
    }
    if (message.type === "gone") this.seen.delete(message.answer);
    this.handlers.onMessage(message);
  }

  follow(answer) {
    if (this.seen.has(answer)) return;
    this.seen.set(answer, 0);
    if (this.isOpen) this.write({ type: "follow", answer, after: 0 });
  }

  send(message) {
    if (this.isOpen) this.write(message);
    else {
      this.waiting.push(message);
      this.open();
    }
  }

  write(message) {
    if (this.isOpen) this.socket.send(JSON.stringify(message));
  }

  // A connection that was cut without a word is closed by ourselves.
  expect(socket) {
    clearTimeout(this.silence);
    this.silence = setTimeout(() => {
      socket.close();
      this.closed(socket, 1006);
    }, SILENCE_MS);
  }

  closed(socket, code) {
    if (socket !== this.socket) return;
    this.socket = null;
    clearTimeout(this.silence);
    clearInterval(this.heartbeat);
    this.handlers.onClosed(this.waiting);
    if (WHY[code]) {
      this.refused = true;
      this.handlers.onState("refused", WHY[code]);
      return;
    }
    this.attempts += 1;
    if (this.attempts >= FAILURES_BEFORE_SAYING || this.seen.size || this.waiting.length) {
      this.handlers.onState("lost", "The connection is gone. Trying again …");
    }
    this.retry = setTimeout(() => this.open(), RETRY_MS[Math.min(this.attempts - 1, RETRY_MS.length - 1)]);
  }
}
