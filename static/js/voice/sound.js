// Microphone and loudspeaker, each through an AudioWorklet of its own.
const INPUT_RATE = 16000;

export const TROUBLES = {
  NotAllowedError: ["The microphone is not allowed", "Click the symbol beside the address, allow the microphone for this page, and press Start again. You can ask in writing meanwhile."],
  NotFoundError: ["There is no microphone", "Connect one and press Start again. You can ask in writing and hear the answers meanwhile."],
  NotReadableError: ["The microphone is in use", "Another program holds it. Close that and press Start again."],
  OverconstrainedError: ["That microphone is gone", "Choose another one below and press Start again."],
  insecure: ["The microphone needs a secure address", "Browsers open it on https:// or on this machine (127.0.0.1) only. You can ask in writing meanwhile."],
};

export class Microphone {
  async open(moduleUrl, deviceId, onFrame) {
    if (!navigator.mediaDevices?.getUserMedia) throw Object.assign(new Error("insecure"), { name: "insecure" });
    const audio = { echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1 };
    if (deviceId) audio.deviceId = { exact: deviceId };
    this.stream = await navigator.mediaDevices.getUserMedia({ audio });
    // Firefox connects only contexts and microphones of one rate, and then resamples by itself in none.
    try {
      this.context = new AudioContext({ sampleRate: INPUT_RATE });
      this.source = this.context.createMediaStreamSource(this.stream);
    } catch {
      this.context?.close();
      this.context = new AudioContext();
      this.source = this.context.createMediaStreamSource(this.stream);
    }
    await this.context.audioWorklet.addModule(moduleUrl);
    this.node = new AudioWorkletNode(this.context, "capture", { numberOfOutputs: 0 });
    this.node.port.onmessage = ({ data }) => onFrame(data);
    this.source.connect(this.node);
  }

  close() {
    this.node?.disconnect();
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    this.context?.close();
  }
}

export class Loudspeaker {
  async open(moduleUrl, rate, position, onReport) {
    this.context = new AudioContext();
    await this.context.audioWorklet.addModule(moduleUrl);
    this.node = new AudioWorkletNode(this.context, "playback", { numberOfInputs: 0, outputChannelCount: [1], processorOptions: { rate } });
    this.node.port.onmessage = ({ data }) => onReport(data);
    this.node.connect(this.context.destination);
    this.clear(position);
    await this.context.resume();
  }

  play(pcm, last) {
    this.node?.port.postMessage({ pcm, last }, [pcm]);
  }

  clear(position) {
    this.node?.port.postMessage({ clear: position });
  }

  duck(on) {
    this.node?.port.postMessage({ gain: on ? 0.15 : 1 });
  }

  close() {
    this.context?.close();
  }
}
