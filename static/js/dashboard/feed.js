// The figures of each second: over the websocket while it is open, by asking while it is not.

const RETRY_MS = [500, 1000, 2000, 5000, 10000, 15000];
const POLL_MS = 2000;
const SILENCE_MS = 8000;

const WHY = {
  4401: "You are signed out. Reload the page to sign in again.",
  4403: "You may not see the figures any more.",
};

export class Feed {
  // `handlers` take messages by type, "metrics" what is polled as well; `onState("live" | "polling" | "lost", text)`.
  constructor(socketPath, basicUrl, handlers, onState) {
    this.url = Object.assign(new URL(socketPath, location.href), { protocol: location.protocol === "https:" ? "wss:" : "ws:" });
    this.basicUrl = basicUrl;
    this.handlers = handlers;
    this.onState = onState;
    this.attempts = 0;
    this.polls = 0;
    addEventListener("online", () => this.open());
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.open());
    this.open();
  }

  open() {
    clearTimeout(this.retry);
    if (this.socket && this.socket.readyState <= WebSocket.OPEN) return;
    const socket = (this.socket = new WebSocket(this.url));
    socket.addEventListener("message", (event) => {
      const message = JSON.parse(event.data);
      const handle = this.handlers[message.type];
      if (!handle) return;
      this.attempts = 0;
      this.stopPolling();
      this.expect(socket);
      this.onState("live", "Live");
      handle(message);
    });
    socket.addEventListener("close", (event) => this.closed(socket, event.code));
    this.expect(socket);
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
    if (WHY[code]) {
      this.stopPolling();
      this.onState("lost", WHY[code]);
      return;
    }
    this.retry = setTimeout(() => this.open(), RETRY_MS[Math.min(this.attempts++, RETRY_MS.length - 1)]);
    if (!this.polling) {
      this.onState("polling", "Reconnecting …");
      this.polling = setInterval(() => this.poll(), POLL_MS);
      this.poll();
    }
  }

  async poll() {
    try {
      const answer = await fetch(this.basicUrl, { headers: { Accept: "application/json" } });
      if (!this.polling) return;
      if (!answer.ok) throw new Error(String(answer.status));
      this.handlers.metrics(await answer.json());
      this.onState("polling", "Every two seconds; the live connection is being opened again");
    } catch {
      if (this.polling) this.onState("lost", "The server does not answer. Trying again …");
    }
  }

  stopPolling() {
    clearInterval(this.polling);
    this.polling = null;
  }
}
