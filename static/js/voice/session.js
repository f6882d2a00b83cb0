// The connection of a conversation: /ws/voice, version 1, as docs/reference/voice-protocol.md describes it.
const HEADER = 8;
const AUDIO_IN = 1;
const LAST_OF_SENTENCE = 1;
const RETRY_MS = [200, 500, 1000, 2000, 4000];

export class Session {
  // `on` takes messages by type, and "audio" ({sound, last}), "lost" (text, isFinal) and "back".
  constructor(path, options, on) {
    this.url = Object.assign(new URL(path, location.href), { protocol: location.protocol === "https:" ? "wss:" : "ws:" });
    this.options = options;
    this.on = on;
    this.sequence = 0;
    this.attempts = 0;
    this.open();
  }

  open() {
    const socket = (this.socket = new WebSocket(this.url));
    socket.binaryType = "arraybuffer";
    socket.addEventListener("open", () => {
      this.sequence = 0;
      const start = { type: "session.start", versions: [1], sample_rate: 16000, acknowledges: true, ...this.options };
      if (this.token) start.resume = this.token;
      socket.send(JSON.stringify(start));
    });
    socket.addEventListener("message", ({ data }) => this.take(data));
    socket.addEventListener("close", ({ code }) => socket === this.socket && this.closed(code));
  }

  take(data) {
    if (data instanceof ArrayBuffer) {
      const view = new DataView(data);
      this.on.audio?.({ sound: data.slice(HEADER), last: Boolean(view.getUint8(1) & LAST_OF_SENTENCE) });
      return;
    }
    const message = JSON.parse(data);
    if (message.type === "session.started") {
      this.token = message.token;
      this.until = message.resume_s * 1000;
      this.attempts = 0;
    }
    if (message.type === "problem") this.problem = message.problem;
    this.on[message.type]?.(message);
  }

  closed(code) {
    this.socket = null;
    if (this.ended) return;
    const canWait = code === 1006 || code === 1011 || code === 1001;
    if (canWait && this.token && this.attempts < RETRY_MS.length * 3) {
      this.on.lost?.("The connection was lost. Trying again …", false);
      setTimeout(() => !this.ended && this.open(), RETRY_MS[Math.min(this.attempts++, RETRY_MS.length - 1)]);
      return;
    }
    this.on.lost?.(this.problem?.detail ?? (code === 1000 ? "The conversation is over." : "There is no connection to the server."), true);
  }

  send(type, fields = {}) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ type, ...fields }));
  }

  sendSound(sound) {
    // What can't leave is dropped: sound that comes late helps nobody.
    if (this.socket?.readyState !== WebSocket.OPEN || this.socket.bufferedAmount > 128000 || !this.token) return;
    const frame = new Uint8Array(HEADER + sound.byteLength);
    const view = new DataView(frame.buffer);
    view.setUint8(0, AUDIO_IN);
    view.setUint32(4, ++this.sequence, true);
    frame.set(new Uint8Array(sound), HEADER);
    this.socket.send(frame);
  }

  end() {
    this.ended = true;
    this.send("session.end");
    this.socket?.close();
  }
}
