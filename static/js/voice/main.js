// A spoken conversation: microphone → server → loudspeaker, and what is seen of it.
import { Session } from "./session.js";
import { Loudspeaker, Microphone, TROUBLES } from "./sound.js";
import { View } from "./view.js";

const root = document.getElementById("voice");
const by = (id) => document.getElementById(id);
const view = new View(root);
let conversation = null;

const options = () => ({
  collection: by("collection").value || undefined,
  voice: by("voice-name").value,
  style: by("style").value,
  hands_free: by("hands-free").checked,
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
    this.session = new Session(root.dataset.socket, options(), {
      "session.started": (message) => this.started(message),
      "turn.state": ({ state }) => view.state(state, state === "listening" && !this.microphone ? "Ask in writing" : undefined),
      "transcript.partial": ({ text }) => view.heard(text, false),
      "transcript.final": ({ text }) => view.heard(text, true),
      "turn.ignored": ({ reason }) => view.ignored(reason),
      "turn.started": (message) => view.turn(message),
      "turn.ended": (message) => view.ended(message),
      retrieval: ({ passages }) => view.passages(passages),
      "audio.sentence": (message) => view.sentence(message),
      "audio.duck": ({ on }) => this.loudspeaker.duck(on),
      interrupted: ({ position }) => this.loudspeaker.clear(position),
      metrics: (figures) => view.latency(figures),
      error: ({ code, detail }) => code !== "audio-dropped" && view.trouble("Something failed", detail),
      problem: ({ problem }) => view.trouble(problem.title, problem.detail),
      audio: ({ pcm, last }) => this.loudspeaker.play(pcm, last),
      lost: (text, isFinal) => this.lost(text, isFinal),
    });
    show(true, Boolean(this.microphone));
  }

  async started({ output_rate: rate, position, resumed }) {
    if (resumed) {
      view.trouble();
      this.loudspeaker.clear(position);
    } else {
      await this.loudspeaker.open(root.dataset.playback, rate, position, (report) => this.played(report));
    }
  }

  captured({ pcm, level }) {
    if (!this.sounds) view.level(this.muted ? 0 : level);
    if (this.muted || (!by("hands-free").checked && !this.holding)) return;
    this.session?.sendSound(pcm);
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
by("stop").addEventListener("click", () => conversation?.session.send("stop"));
by("mute").addEventListener("click", () => {
  const on = by("mute").getAttribute("aria-pressed") !== "true";
  by("mute").setAttribute("aria-pressed", on);
  by("mute").textContent = on ? "Unmute" : "Mute";
  conversation?.mute(on);
});
by("typed").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = by("typed-text").value.trim();
  if (text) conversation?.session.send("input.text", { text });
  by("typed-text").value = "";
});
for (const id of ["collection", "voice-name", "style", "hands-free"]) {
  by(id).addEventListener("change", () => {
    conversation?.session.send("session.update", options());
    if (conversation) show(true, Boolean(conversation.microphone));
  });
}
const hold = by("hold");
for (const name of ["pointerdown", "keydown"]) {
  hold.addEventListener(name, (event) => (event.type !== "keydown" || (event.key === " " && !event.repeat)) && conversation?.hold(true));
}
for (const name of ["pointerup", "pointercancel", "keyup", "blur"]) hold.addEventListener(name, () => conversation?.hold(false));
addEventListener("pagehide", () => conversation?.end());
