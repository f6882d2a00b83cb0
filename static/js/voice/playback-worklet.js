// Plays PCM16 of any rate through a jitter buffer, and tells how far it is. Positions are samples of the sender's rate.
//
// It begins once `prebuffer` samples are there, or the last of a sentence is; running dry makes it wait for as much again.
const REPORT_EVERY_S = 0.1;

class Playback extends AudioWorkletProcessor {
  constructor(options) {
    super();
    this.ratio = options.processorOptions.rate / sampleRate;
    this.prebuffer = options.processorOptions.rate * 0.08;
    this.queue = [];
    this.offset = 0;
    this.queued = 0;
    this.position = 0;
    this.gain = 1;
    this.target = 1;
    this.playing = false;
    this.complete = false;
    this.reported = 0;
    this.underruns = 0;
    this.port.onmessage = ({ data }) => this.take(data);
  }

  take(message) {
    if (message.pcm) {
      const samples = new Int16Array(message.pcm);
      this.queue.push(samples);
      this.queued += samples.length;
      this.complete = message.last;
    } else if ("clear" in message) {
      this.queue = [];
      this.offset = 0;
      this.queued = 0;
      this.playing = false;
      this.position = message.clear;
    } else if ("gain" in message) {
      this.target = message.gain;
    }
  }

  process(_, [output]) {
    const channel = output[0];
    if (!this.playing && this.queued > 0 && (this.complete || this.queued >= this.prebuffer)) this.playing = true;
    let power = 0;
    for (let index = 0; index < channel.length; index++) {
      // 15 ms from loud to soft, so that nothing clicks.
      this.gain += (this.target - this.gain) * 0.0015 * (48000 / sampleRate);
      const value = this.playing ? this.sample() * this.gain : 0;
      channel[index] = value;
      power += value * value;
    }
    for (let other = 1; other < output.length; other++) output[other].set(channel);
    if (currentTime - this.reported >= REPORT_EVERY_S) {
      this.reported = currentTime;
      const level = Math.sqrt(power / channel.length);
      this.port.postMessage({ position: Math.floor(this.position), playing: this.playing, level, underruns: this.underruns });
    }
    return true;
  }

  sample() {
    while (this.queue.length && this.offset >= this.queue[0].length) {
      this.offset -= this.queue[0].length;
      this.queue.shift();
    }
    if (!this.queue.length) {
      if (!this.complete) this.underruns++;
      this.playing = false;
      this.offset = 0;
      this.position = Math.round(this.position);
      this.port.postMessage({ position: this.position, playing: false, level: 0, underruns: this.underruns });
      return 0;
    }
    const samples = this.queue[0];
    const at = Math.floor(this.offset);
    const next = at + 1 < samples.length ? samples[at + 1] : this.queue[1]?.[0] ?? samples[at];
    const value = samples[at] + (next - samples[at]) * (this.offset - at);
    this.offset += this.ratio;
    this.position += this.ratio;
    this.queued -= this.ratio;
    return value / 32768;
  }
}

registerProcessor("playback", Playback);
