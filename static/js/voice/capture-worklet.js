// Takes what the microphone gives, in an AudioContext of 16 kHz, and hands on 32 ms at a time as PCM16 with its level.
const FRAME = 512;

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.frame = new Int16Array(FRAME);
    this.filled = 0;
    this.power = 0;
  }

  process([input]) {
    const channel = input[0];
    if (!channel) return true;
    for (const sample of channel) {
      this.power += sample * sample;
      this.frame[this.filled++] = Math.max(-32768, Math.min(32767, Math.round(sample * 32767)));
      if (this.filled === FRAME) {
        const level = Math.sqrt(this.power / FRAME);
        this.port.postMessage({ pcm: this.frame.buffer, level }, [this.frame.buffer]);
        this.frame = new Int16Array(FRAME);
        this.filled = 0;
        this.power = 0;
      }
    }
    return true;
  }
}

registerProcessor("capture", Capture);
