// The live connection. One picture is in flight, and the newest pose waits for it; older ones are forgotten. Nothing is
// asked of a picture before the server has opened it: what is asked has one answer then, and none is waited for in vain.

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
  const told = await answer.json().catch(() => {
    throw new Error(lost); // the server went away while it spoke
  });
  if (!answer.ok) throw new Error(told.message);
  return told;
}

// Put items into a list, and touch nothing if they are there: what is replaced under a pressed pointer hears no click.
export function put(list, items) {
  if (items.length === list.children.length && items.every((item, at) => item === list.children[at])) return;
  const focused = document.activeElement;
  list.replaceChildren(...items);
  if (list.contains(focused)) focused.focus();
}

export class Live {
  // `hear(header, parts)` gets every answer, `parts` by name as Blobs; `change(state)` gets "open", "lost" or "locked".
  constructor(hear, change) {
    this.hear = hear;
    this.change = change;
    this.number = 0;
    this.asked = 0; // the number of what is to be open
    this.shown = false; // whether it is
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
      this.forget();
      this.change("open");
    };
    this.socket.onmessage = (event) => this.receive(event.data);
    this.socket.onclose = () => this.lost();
  }

  forget() {
    this.shown = false;
    this.flying = this.waiting = null;
  }

  async lost() {
    this.forget();
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

  // Whether a picture may be asked for that is not waited for by another.
  get free() {
    return this.ready && this.shown && this.flying === null;
  }

  say(message) {
    if (this.ready) this.socket.send(JSON.stringify(message));
  }

  open(what) {
    this.forget();
    this.asked = ++this.number;
    this.say({ type: "open", n: this.asked, ...what });
  }

  paint(pose) {
    if (!this.shown) return;
    if (!this.free) {
      this.waiting = pose;
      return;
    }
    this.flying = ++this.number;
    this.since = performance.now();
    this.say({ type: "pose", n: this.flying, ...pose });
  }

  // A frame of the camera, a JPEG as a Uint8Array; only while it is `free`.
  act(jpeg) {
    if (!this.free) return;
    this.flying = ++this.number;
    this.since = performance.now();
    const message = new Uint8Array(4 + jpeg.byteLength);
    new DataView(message.buffer).setUint32(0, this.flying, true);
    message.set(jpeg, 4);
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
    const { type, about, n } = header;
    const opens = type === "opened" || about === "open";
    if (opens && n === this.asked) this.shown = type === "opened";
    else if (about === "open") return; // of a picture that is no longer wanted
    const painted = type === "painted" || type === "acted" || about === "pose" || about === "frame";
    if (painted && this.number && n !== this.flying) return;
    if (painted || about === "message") { // the server understood nothing of it, not even its number
      header.milliseconds = performance.now() - this.since;
      this.flying = null;
      const next = this.waiting;
      this.waiting = null;
      if (next) this.paint(next);
    }
    this.hear(header, parts);
  }
}
