// Opus by the browser's own codecs: a tenth of the bytes. Where there are none, sound goes as PCM16.
const INPUT = { codec: "opus", sampleRate: 16000, numberOfChannels: 1, bitrate: 24000, opus: { frameDuration: 20000, application: "voip" } };
const OUTPUT = { codec: "opus", sampleRate: 48000, numberOfChannels: 1 };
const PACKET = 960; // samples, of 48 kHz: 20 ms, as the server sends them

// "opus" or "pcm16". On this machine bytes cost nothing; `?sound=` says otherwise.
export async function soundFormat() {
  const wish = new URLSearchParams(location.search).get("sound");
  const isHere = ["127.0.0.1", "localhost", "[::1]"].includes(location.hostname);
  if (wish === "pcm16" || (isHere && wish !== "opus") || !("AudioEncoder" in window) || !("AudioDecoder" in window)) return "pcm16";
  try {
    const [to, from] = await Promise.all([AudioEncoder.isConfigSupported(INPUT), AudioDecoder.isConfigSupported(OUTPUT)]);
    return to.supported && from.supported ? "opus" : "pcm16";
  } catch {
    return "pcm16";
  }
}

export class Packer {
  constructor(onPacket, onError) {
    this.at = 0;
    this.encoder = new AudioEncoder({
      output: (chunk) => {
        const packet = new ArrayBuffer(chunk.byteLength);
        chunk.copyTo(packet);
        onPacket(packet);
      },
      error: onError,
    });
    this.encoder.configure(INPUT);
  }

  push(pcm) {
    const numberOfFrames = pcm.byteLength / 2;
    const data = new AudioData({ format: "s16", sampleRate: INPUT.sampleRate, numberOfFrames, numberOfChannels: 1, timestamp: this.at, data: pcm });
    this.at += (numberOfFrames * 1e6) / INPUT.sampleRate;
    this.encoder.encode(data);
    data.close();
  }

  close() {
    if (this.encoder.state !== "closed") this.encoder.close();
  }
}

export class Unpacker {
  constructor(onSound, onError) {
    this.onSound = onSound;
    this.at = 0;
    this.last = new Set();
    this.decoder = new AudioDecoder({ output: (data) => this.take(data), error: onError });
    this.decoder.configure(OUTPUT);
  }

  push(packet, last) {
    if (last) this.last.add(this.at);
    this.decoder.decode(new EncodedAudioChunk({ type: "key", timestamp: this.at, data: packet }));
    this.at += (PACKET * 1e6) / OUTPUT.sampleRate;
  }

  // Whatever the decoder makes of a packet, it counts as 20 ms: positions are those of the server.
  take(data) {
    const samples = new Float32Array(data.numberOfFrames);
    data.copyTo(samples, { planeIndex: 0, format: "f32-planar" });
    const pcm = new Int16Array(PACKET);
    samples.slice(-PACKET).forEach((value, index) => (pcm[PACKET - Math.min(samples.length, PACKET) + index] = Math.max(-1, Math.min(1, value)) * 32767));
    const last = this.last.delete(data.timestamp);
    data.close();
    this.onSound({ pcm: pcm.buffer, last });
  }

  // Forget what is on its way.
  clear() {
    this.decoder.reset();
    this.decoder.configure(OUTPUT);
    this.last.clear();
  }

  close() {
    if (this.decoder.state !== "closed") this.decoder.close();
  }
}
