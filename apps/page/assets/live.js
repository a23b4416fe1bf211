// The live connection. One picture is in flight, and the newest pose waits for it; older ones are forgotten.

const LARGEST = 200e6;

// Give the server a file; it answers what the file is. Throws an Error for the person if it cannot be used.
export async function sendFile(file) {
  if (file.size > LARGEST) throw new Error(`${file.name} has more than 200 MB; give a smaller one`);
  const sent = fetch(`/api/files?name=${encodeURIComponent(file.name)}`, { method: "POST", body: file });
  return heard(sent, `${file.name} could not be sent; is the server still there?`);
}

// What the server answers to a request. Throws an Error for the person if it refuses, or with `lost` if it is not there.
export async function heard(request, lost) {
  let answer;
  try {
    answer = await request;
  } catch {
    throw new Error(lost);
  }
  const told = await answer.json();
  if (!answer.ok) throw new Error(told.message);
  return told;
}

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

  close() {
    this.over = true;
    this.socket.close();
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
    if (this.over) return;
    let state = "lost";
    try {
      const answer = await fetch("/api/models");
      if (answer.status === 403) state = "locked";
    } catch {
      // nobody there
    }
    this.change(state);
    this.tries += 1;
    setTimeout(() => this.over || this.connect(), Math.min(400 * this.tries, 3000));
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

  // A frame of the camera, a JPEG in an ArrayBuffer; only while none is in flight.
  act(jpeg) {
    if (this.flying !== null || !this.ready) return;
    this.flying = ++this.number;
    this.since = performance.now();
    const message = new Uint8Array(4 + jpeg.byteLength);
    new DataView(message.buffer).setUint32(0, this.flying, true);
    message.set(new Uint8Array(jpeg), 4);
    this.socket.send(message);
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
    const painted = header.type === "painted" || header.type === "acted";
    if (painted && this.number && header.n !== this.flying) return; // of a picture that is no longer open
    if (painted) header.milliseconds = performance.now() - this.since;
    if (painted || (header.type === "error" && ["pose", "frame"].includes(header.about))) {
      this.flying = null;
      const next = this.waiting;
      this.waiting = null;
      if (next) this.paint(next);
    }
    this.hear(header, parts);
  }
}
