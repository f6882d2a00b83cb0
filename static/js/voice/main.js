// A spoken conversation: microphone → server → loudspeaker, and what is seen of it.
import { Packer, soundFormat, Unpacker } from "./opus.js";
import { Session } from "./session.js";
import { Loudspeaker, Microphone, TROUBLES } from "./sound.js";
import { View } from "./view.js";

const root = document.getElementById("voice");
const by = (id) => document.getElementById(id);
const view = new View(root);
let conversation = null;

const options = () => ({
  collection: by("collection").value || undefined,
  agent: by("agent").value || undefined,
  voice: by("voice-name").value,
  style: by("style").value,
  hands_free: by("hands-free").checked,
  wake_word: by("wake-word").checked,
  keep_transcript: by("keep")?.checked ?? false,
});

class Conversation {
  async start() {
    view.trouble();
    view.state("connecting");
    this.microphone = new Microphone();
    this.loudspeaker = new Loudspeaker();
    try {
      await this.microphone.open(root.dataset.capture, by("device").value, (frame) => this.captured(frame));
      listDevices();
    } catch (error) {
      // Without a microphone one can still ask in writing, and hear.
      this.microphone = null;
      view.trouble(...(TROUBLES[error.name] ?? ["The microphone can't be opened", `${error.message} You can ask in writing meanwhile.`]));
    }
    this.asleep = by("wake-word").checked;
    const format = await soundFormat();
    const formats = { input_format: format, output_format: format };
    this.session = new Session(root.dataset.socket, { ...options(), ...formats }, {
      "session.started": (message) => this.started(message),
      "turn.state": ({ state }) => this.state(state),
      wake: ({ awake }) => this.sleep(!awake),
      "transcript.partial": ({ text }) => view.heard(text, false),
      "transcript.final": ({ text }) => view.heard(text, true),
      "turn.ignored": ({ reason }) => view.ignored(reason),
      "turn.started": (message) => view.turn(message),
      "turn.ended": (message) => view.ended(message),
      retrieval: ({ passages }) => view.passages(passages),
      "audio.sentence": (message) => view.sentence(message),
      "audio.duck": ({ on }) => this.loudspeaker.duck(on),
      interrupted: ({ position }) => this.silence(position),
      metrics: (figures) => view.latency(figures),
      "transcript.kept": ({ conversation }) => view.kept(conversation),
      error: ({ code, detail }) => code !== "audio-dropped" && view.trouble("Something failed", detail),
      problem: ({ problem }) => view.trouble(problem.title, problem.detail),
      audio: ({ sound, last }) => (this.unpacker ? this.unpacker.push(sound, last) : this.loudspeaker.play(sound, last)),
      lost: (text, isFinal) => this.lost(text, isFinal),
    });
    show(true, Boolean(this.microphone));
  }

  state(name) {
    this.listening = name === "listening";
    const calls = this.asleep && by("hands-free").checked ? `Say “${root.dataset.wakePhrase}”` : undefined;
    view.state(name, this.listening ? (this.microphone ? calls : "Ask in writing") : undefined);
  }

  sleep(on) {
    this.asleep = on;
    if (this.listening) this.state("listening");
  }

  async started({ output_rate: rate, position, resumed, input_format: input, output_format: output }) {
    root.dataset.sound = `${input} ${output}`;
    if (resumed) {
      view.trouble();
      this.loudspeaker.duck(false);
      this.silence(position);
    } else {
      const failed = (error) => view.trouble("Sound can't be packed", `${error.message} Reload the page with ?sound=pcm16.`);
      if (input === "opus") this.packer = new Packer((packet) => this.session.sendSound(packet), failed);
      if (output === "opus") this.unpacker = new Unpacker(({ pcm, last }) => this.loudspeaker.play(pcm, last), failed);
      await this.loudspeaker.open(root.dataset.playback, rate, position, (report) => this.played(report));
    }
  }

  captured({ pcm, level }) {
    if (!this.sounds) view.level(this.muted ? 0 : level);
    if (this.muted || (!by("hands-free").checked && !this.holding)) return;
    if (this.packer) this.packer.push(pcm);
    else this.session?.sendSound(pcm);
  }

  silence(position) {
    this.unpacker?.clear();
    this.loudspeaker.clear(position);
  }

  played({ position, level, playing }) {
    this.session.send("audio.ack", { position });
    view.played(position);
    this.sounds = playing;
    if (playing) view.level(level);
  }

  hold(on) {
    if (this.holding === on) return;
    this.holding = on;
    if (!on) this.session.send("input.commit");
  }

  mute(on) {
    this.muted = on;
    root.dataset.muted = on;
  }

  lost(text, isFinal) {
    if (!isFinal) return view.trouble("Connection lost", text);
    if (text !== "The conversation is over.") view.trouble("The conversation ended", text);
    this.end();
  }

  end() {
    this.session.end();
    this.microphone?.close();
    this.packer?.close();
    this.unpacker?.close();
    this.loudspeaker.close();
    conversation = null;
    view.state("off");
    view.level(0);
    show(false);
  }
}

function show(isOn, hasMicrophone = true) {
  by("start").hidden = isOn;
  for (const id of ["stop", "end", "typed"]) by(id).hidden = !isOn;
  by("mute").hidden = !isOn || !hasMicrophone;
  by("hold").hidden = !isOn || !hasMicrophone || by("hands-free").checked;
}

async function listDevices() {
  const devices = (await navigator.mediaDevices.enumerateDevices()).filter((one) => one.kind === "audioinput" && one.deviceId);
  const chosen = by("device").value;
  by("device").replaceChildren(new Option("The usual one", ""), ...devices.map((one) => new Option(one.label || "A microphone", one.deviceId)));
  by("device").value = chosen;
}

by("start").addEventListener("click", () => {
  conversation = new Conversation();
  conversation.start();
});
by("end").addEventListener("click", () => conversation?.end());
by("stop").addEventListener("click", () => conversation?.session?.send("stop"));
by("mute").addEventListener("click", () => {
  const on = by("mute").getAttribute("aria-pressed") !== "true";
  by("mute").setAttribute("aria-pressed", on);
  by("mute").textContent = on ? "Unmute" : "Mute";
  conversation?.mute(on);
});
by("typed").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = by("typed-text").value.trim();
  if (text) conversation?.session?.send("input.text", { text });
  by("typed-text").value = "";
});
for (const id of ["collection", "agent", "voice-name", "style", "hands-free", "wake-word", "keep"].filter(by)) {
  by(id).addEventListener("change", () => {
    conversation?.session?.send("session.update", options());
    if (!conversation) return;
    show(true, Boolean(conversation.microphone));
    if (id === "wake-word" || id === "hands-free") conversation.sleep(by("wake-word").checked);
  });
}
by("forget").addEventListener("click", async () => {
  const csrf = JSON.parse(document.body.getAttribute("hx-headers") ?? "{}")["X-CSRFToken"] ?? "";
  const answer = await fetch(`/rag/conversations/${by("kept").dataset.conversation}`, { method: "DELETE", headers: { "X-CSRFToken": csrf } });
  if (answer.ok || answer.status === 404) view.kept(null);
  else view.trouble("It was not deleted", "Try again, or delete it among your conversations.");
});
const hold = by("hold");
for (const name of ["pointerdown", "keydown"]) {
  hold.addEventListener(name, (event) => (event.type !== "keydown" || (event.key === " " && !event.repeat)) && conversation?.hold(true));
}
for (const name of ["pointerup", "pointercancel", "keyup", "blur"]) hold.addEventListener(name, () => conversation?.hold(false));
addEventListener("pagehide", () => conversation?.end());
