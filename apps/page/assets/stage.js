// Points on a picture, to be dragged or moved by keys. A pose is a flat array of x, y in −1 … 1.

const REACH = 1.4;
const STEP = 0.02;
const NAMES = "http://www.w3.org/2000/svg";

export class Stage {
  // `moved(pose, phase)` is called with phase "start" before a gesture, "move" during it and "end" after it.
  constructor(element, moved) {
    this.element = element;
    this.moved = moved;
    this.canvas = element.appendChild(document.createElement("canvas"));
    this.canvas.setAttribute("role", "img");
    this.svg = element.appendChild(document.createElementNS(NAMES, "svg"));
    this.svg.setAttribute("viewBox", "-1 -1 2 2");
    this.svg.setAttribute("aria-hidden", "true");
    this.whole = true;
    this.points = [];
    this.pose = [];
    element.addEventListener("pointerdown", (event) => this.press(event));
  }

  // Points at `home`, linked by `edges` (i, j, weight), that move together as `covariance` says.
  show({ home, edges, covariance }) {
    Object.assign(this, { home, edges, covariance });
    this.points.forEach((point) => point.remove());
    this.svg.replaceChildren();
    const draw = (name) => edges.map(([, , weight]) => {
      const line = this.svg.appendChild(document.createElementNS(NAMES, "line"));
      line.setAttribute("class", name);
      line.setAttribute("opacity", (0.3 + 0.7 * weight * weight).toFixed(2));
      return line;
    });
    this.lines = [...draw("rim"), ...draw("edge")];
    this.points = Array.from({ length: home.length / 2 }, (_, k) => {
      const point = this.element.appendChild(document.createElement("div"));
      point.className = "point";
      point.tabIndex = 0;
      const about = { role: "slider", "aria-label": `Point ${k + 1}`, "aria-valuemin": -140, "aria-valuemax": 140 };
      for (const [name, value] of Object.entries(about)) point.setAttribute(name, value);
      point.addEventListener("keydown", (event) => this.key(event, k));
      return point;
    });
    this.place(home);
  }

  place(wanted) {
    const pose = wanted.map((value) => Math.max(-REACH, Math.min(REACH, value)));
    this.pose = pose;
    this.points.forEach((point, k) => {
      const [x, y] = [pose[2 * k], pose[2 * k + 1]];
      point.style.left = `${(x + 1) * 50}%`;
      point.style.top = `${(y + 1) * 50}%`;
      point.setAttribute("aria-valuenow", Math.round(x * 100));
      point.setAttribute("aria-valuetext", `${x.toFixed(2)} right, ${y.toFixed(2)} down`);
    });
    this.lines.forEach((line, e) => {
      const [i, j] = this.edges[e % this.edges.length];
      const ends = { x1: pose[2 * i], y1: pose[2 * i + 1], x2: pose[2 * j], y2: pose[2 * j + 1] };
      for (const [name, value] of Object.entries(ends)) line.setAttribute(name, value);
    });
  }

  // What becomes of `pose` when point k is moved by (dx, dy): the others follow as far as they usually do.
  carried(pose, k, dx, dy) {
    const next = pose.slice();
    if (!this.whole) {
      next[2 * k] += dx;
      next[2 * k + 1] += dy;
      return next;
    }
    const [a, b] = [2 * k, 2 * k + 1];
    const c = this.covariance;
    const determinant = c[a][a] * c[b][b] - c[a][b] * c[b][a];
    const u = (c[b][b] * dx - c[a][b] * dy) / determinant;
    const v = (c[a][a] * dy - c[b][a] * dx) / determinant;
    return next.map((value, row) => value + c[row][a] * u + c[row][b] * v);
  }

  press(event) {
    if (event.button || !event.target.closest(".point")) return;
    const k = this.nearest(event); // the targets of near points overlap
    const point = this.points[k];
    event.preventDefault();
    point.focus({ preventScroll: true, focusVisible: false });
    event.target.setPointerCapture(event.pointerId);
    point.classList.add("held");
    const from = this.pose.slice();
    const side = this.element.getBoundingClientRect().width / 2;
    this.moved(from, "start");
    const move = (to) => {
      this.place(this.carried(from, k, (to.clientX - event.clientX) / side, (to.clientY - event.clientY) / side));
      this.moved(this.pose, "move");
    };
    const end = () => {
      point.classList.remove("held");
      for (const [name, listener] of listeners) event.target.removeEventListener(name, listener);
      this.moved(this.pose, "end");
    };
    const listeners = [["pointermove", move], ["pointerup", end], ["pointercancel", end]];
    for (const [name, listener] of listeners) event.target.addEventListener(name, listener);
  }

  nearest(event) {
    const box = this.element.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top].map((at) => (at / box.width) * 2 - 1);
    const away = this.points.map((_, k) => Math.hypot(this.pose[2 * k] - x, this.pose[2 * k + 1] - y));
    return away.indexOf(Math.min(...away));
  }

  key(event, k) {
    const step = event.shiftKey ? 5 * STEP : STEP;
    const ways = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    let [dx, dy] = ways[event.key] || [0, 0];
    if (event.key === "Home") [dx, dy] = [this.home[2 * k] - this.pose[2 * k], this.home[2 * k + 1] - this.pose[2 * k + 1]];
    if (!dx && !dy) return;
    event.preventDefault();
    this.moved(this.pose.slice(), "start", `key ${k}`);
    this.place(this.carried(this.pose, k, dx, dy));
    this.moved(this.pose, "end");
  }
}
