// The live connection. One picture is in flight, and the newest pose waits for it; older ones are forgotten.

export class Live {
  // `hear(header, parts)` gets every answer, `parts` by name as Blobs; `change(state)` gets "open", "lost" or "locked".
  constructor(hear, change) {
    this.hear = hear;
    this.change = change;
    this.number = 0;
    this.flying = null;
    this.waiting = null;
    this.tries = 0;
    this.connect();
  }

  connect() {
    this.socket = new WebSocket(`ws://${location.host}/live`);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => {
      this.tries = 0;
      this.flying = this.waiting = null;
      this.change("open");
    };
    this.socket.onmessage = (event) => this.receive(event.data);
    this.socket.onclose = () => this.lost();
  }

  async lost() {
    this.flying = this.waiting = null;
    let state = "lost";
    try {
      const answer = await fetch("/api/models");
      if (answer.status === 403) state = "locked";
    } catch {
      // nobody there
    }
    this.change(state);
    this.tries += 1;
    setTimeout(() => this.connect(), Math.min(400 * this.tries, 3000));
  }

  get ready() {
    return this.socket.readyState === WebSocket.OPEN;
  }

  say(message) {
    if (this.ready) this.socket.send(JSON.stringify(message));
  }

  open(what) {
    this.flying = this.waiting = null;
    this.say({ type: "open", ...what });
  }

  paint(pose) {
    if (this.flying !== null) {
      this.waiting = pose;
      return;
    }
    this.flying = ++this.number;
    this.since = performance.now();
    this.say({ type: "pose", n: this.flying, ...pose });
  }

  receive(data) {
    const length = new DataView(data).getUint32(0, true);
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
    const parts = {};
    let at = 4 + length;
    for (const part of header.parts) {
      parts[part.name] = new Blob([new Uint8Array(data, at, part.bytes)], { type: part.type });
      at += part.bytes;
    }
    if (header.type === "painted" && header.n !== this.flying) return; // of a picture that is no longer open
    if (header.type === "painted") header.milliseconds = performance.now() - this.since;
    if (header.type === "painted" || (header.type === "error" && header.about === "pose")) {
      this.flying = null;
      const next = this.waiting;
      this.waiting = null;
      if (next) this.paint(next);
    }
    this.hear(header, parts);
  }
}
