// What is not saved yet is kept in this browser, so that it outlives a closed window.

const AFTER_MS = 300;
const OLDEST_MS = 60 * 24 * 3600 * 1000;

export class Draft {
  #timer = null;

  constructor({ tenant, user, dashboard }) {
    this.key = `draft:${tenant}:${user}:${dashboard}`;
  }

  // What was left, or null.
  find() {
    try {
      const found = JSON.parse(localStorage.getItem(this.key));
      return found && Date.now() - found.at < OLDEST_MS ? found : null;
    } catch {
      return null;
    }
  }

  // `what` is the document, and what it was made of.
  keep(what) {
    this.#pending = what;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.flush(), AFTER_MS);
  }

  #pending = null;

  flush() {
    clearTimeout(this.#timer);
    if (!this.#pending) return;
    try {
      localStorage.setItem(this.key, JSON.stringify({ at: Date.now(), ...this.#pending }));
    } catch {
      // Full, or forbidden: leaving the page warns all the same.
    }
    this.#pending = null;
  }

  drop() {
    clearTimeout(this.#timer);
    this.#pending = null;
    try {
      localStorage.removeItem(this.key);
    } catch {
      // Then nothing was kept there either.
    }
  }
}
