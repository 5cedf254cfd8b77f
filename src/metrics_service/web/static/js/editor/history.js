// What was done to the dashboard, to be undone and done again.

const STEPS = 200;
// What is typed into one field without a pause is one step.
const PAUSE_MS = 1000;

export class History extends EventTarget {
  #past = [];
  #future = [];
  #key = null;
  #at = 0;

  constructor(now) {
    super();
    this.now = now;
  }

  get canUndo() { return this.#past.length > 0; }
  get canRedo() { return this.#future.length > 0; }

  // `key` names the field that is typed into.
  set(next, key = null) {
    if (next === this.now) return;
    const goesOn = key !== null && key === this.#key && Date.now() - this.#at < PAUSE_MS;
    if (!goesOn) this.#past.push(this.now);
    if (this.#past.length > STEPS) this.#past.shift();
    this.#future = [];
    this.#key = key;
    this.#at = Date.now();
    this.#go(next);
  }

  undo() {
    if (!this.canUndo) return;
    this.#future.push(this.now);
    this.#key = null;
    this.#go(this.#past.pop());
  }

  redo() {
    if (!this.canRedo) return;
    this.#past.push(this.now);
    this.#key = null;
    this.#go(this.#future.pop());
  }

  #go(next) {
    this.now = next;
    this.dispatchEvent(new Event("change"));
  }
}
