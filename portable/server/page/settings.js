/** What the user chose, kept in this browser. */

const PLACE = "portable.settings";

/** The sampling fields of a request: their range, and the step of the field on the page. */
export const SAMPLING = [
  { name: "temperature", min: 0, max: 2, step: 0.1 },
  { name: "top_p", min: 0, max: 1, step: 0.05 },
  { name: "top_k", min: 0, max: 1000, step: 1 },
  { name: "min_p", min: 0, max: 1, step: 0.05 },
  { name: "repeat_penalty", min: 0.1, max: 10, step: 0.1 },
  { name: "max_tokens", min: 1, max: 1_000_000, step: 1 },
  { name: "seed", min: 0, max: Number.MAX_SAFE_INTEGER, step: 1 },
];

const CHOICES = {
  theme: ["auto", "light", "dark"],
  language: ["auto", "en", "zh"],
  thinking: ["auto", "on", "off"],
};

export class Settings {
  constructor() {
    this.model = "";
    this.system = "";
    this.sampling = {};
    for (const name of Object.keys(CHOICES)) this[name] = "auto";
    this.#read();
  }

  /** Take over a value and keep it. */
  set(name, value) {
    this[name] = value;
    try {
      localStorage.setItem(PLACE, JSON.stringify(this));
    } catch {
      // A browser that keeps nothing: it holds until the page is closed.
    }
  }

  /** The fields of a request that the user has set. */
  request() {
    const thinking = this.thinking === "auto" ? {} : { enable_thinking: this.thinking === "on" };
    return { ...this.sampling, ...thinking };
  }

  /** Only what makes sense: another version of this page may have written it. */
  #read() {
    let kept = {};
    try {
      kept = JSON.parse(localStorage.getItem(PLACE)) ?? {};
    } catch {
      return;
    }
    for (const [name, choices] of Object.entries(CHOICES)) {
      if (choices.includes(kept[name])) this[name] = kept[name];
    }
    for (const name of ["model", "system"])
      if (typeof kept[name] === "string") this[name] = kept[name];
    for (const field of SAMPLING) {
      const value = kept.sampling?.[field.name];
      if (fits(field, value)) this.sampling[field.name] = value;
    }
  }
}

export function fits({ min, max, step }, value) {
  return (
    Number.isFinite(value) && value >= min && value <= max && (step < 1 || Number.isInteger(value))
  );
}
