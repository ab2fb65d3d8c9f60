/**
 * Markdown inside of a line: text -> nodes. Text and links only, and links only to http and https.
 *
 * What a model says is hostile: no pattern here can be made slow, no depth is without a bound.
 */

import { el } from "./dom.js";

const PARTS = [
  /\\(?<escaped>[!-/:-@[-`{-~])/,
  /(?<ticks>`+)/,
  /(?<mark>\*{1,3}|_{1,3}|~~)/,
  /(?<address>https?:\/\/[^\s<>"`*，。；：！？、（）《》「」【】“”]{1,2000})/,
];
const LABEL = /!?\[(?<label>(?:[^[\]\\\n]|\\.){1,300})\]/;
const TARGET = /(?<target>[^\s()<>]{1,2000}(?:\([^\s()<>]{0,200}\)[^\s()<>]{0,200}){0,3})/;
const LINK = `${LABEL.source}\\(${TARGET.source}(?: "[^"\\n]{0,200}")?\\)`;
const TOKEN = new RegExp([...PARTS.map((part) => part.source), LINK].join("|"), "gu");
const TAGS = {
  "*": ["em"],
  _: ["em"],
  "**": ["strong"],
  __: ["strong"],
  "***": ["strong", "em"],
  ___: ["strong", "em"],
  "~~": ["del"],
};
const DEEPEST = 8;
const WORD = /[\p{L}\p{N}]/u;

/** Append the text to `into`, with its emphasis, code and links. */
export function inline(text, into) {
  const writer = new Writer(into);
  const unclosed = new Set();
  let from = 0;
  TOKEN.lastIndex = 0;
  for (let token; (token = TOKEN.exec(text));) {
    const at = token.index;
    writer.text(text.slice(from, at));
    from = take(writer, text, token, unclosed);
    TOKEN.lastIndex = from;
  }
  writer.text(text.slice(from));
  writer.end();
}

/** Write one token; returns where the text goes on. */
function take(writer, text, { 0: whole, index, groups }, unclosed) {
  const after = index + whole.length;
  if (groups.escaped) writer.text(groups.escaped);
  else if (groups.ticks) return code(writer, text, groups.ticks, index, unclosed);
  else if (groups.mark) writer.mark(whole, text.charAt(index - 1), text.charAt(after));
  else if (groups.label) writer.node(link(groups.target, groups.label.replace(/\\(.)/g, "$1")));
  else return address(writer, groups.address, index);
  return after;
}

function code(writer, text, ticks, index, unclosed) {
  const start = index + ticks.length;
  const end = unclosed.has(ticks.length) ? -1 : closing(text, ticks, start);
  if (end < 0) {
    unclosed.add(ticks.length); // nor will there be one for a later run: look once
    writer.text(ticks);
    return start;
  }
  const inner = text.slice(start, end);
  const padded = inner.length > 2 && inner.startsWith(" ") && inner.endsWith(" ");
  writer.node(el("code", {}, padded ? inner.slice(1, -1) : inner));
  return end + ticks.length;
}

/** Where a run of exactly as many backticks begins; -1: nowhere. */
function closing(text, ticks, from) {
  const runs = /`+/g;
  runs.lastIndex = from;
  for (let run; (run = runs.exec(text));) if (run[0].length === ticks.length) return run.index;
  return -1;
}

function address(writer, found, index) {
  let url = found;
  while (".,;:!?'_~]}".includes(url.at(-1)) || (url.endsWith(")") && !url.includes("(")))
    url = url.slice(0, -1);
  writer.node(link(url, url));
  return index + url.length;
}

/** A link to the web; any other scheme, and a path of this server, is only its text. */
function link(target, label) {
  const url = URL.parse ? URL.parse(target) : parse(target);
  if (url?.protocol !== "https:" && url?.protocol !== "http:")
    return document.createTextNode(label);
  return el(
    "a",
    { href: url.href, target: "_blank", rel: "noopener noreferrer", title: url.href },
    label,
  );
}

function parse(target) {
  try {
    return new URL(target);
  } catch {
    return null;
  }
}

/** Writes nodes; knows which emphasis is open, and turns back to text what is never closed. */
class Writer {
  #open = [];
  #into;

  constructor(into) {
    this.#into = into;
  }

  text(text) {
    if (text) this.#inner.append(text);
  }

  node(node) {
    this.#inner.append(node);
  }

  /** An emphasis mark between these two characters: it closes one, opens one, or is text. */
  mark(mark, before, after) {
    const inWord = mark.startsWith("_") && WORD.test(before) && WORD.test(after);
    if (inWord) return this.text(mark);
    if (before.trim() && this.#close(mark)) return;
    const opens = after.trim() && this.#open.length < DEEPEST && !this.#has(mark);
    if (!opens) return this.text(mark);
    const outer = el(TAGS[mark][0]);
    const inner = TAGS[mark][1] ? outer.appendChild(el(TAGS[mark][1])) : outer;
    this.#inner.append(outer);
    this.#open.push({ mark, outer, inner });
  }

  end() {
    while (this.#open.length) this.#undo();
  }

  get #inner() {
    return this.#open.at(-1)?.inner ?? this.#into;
  }

  #has(mark) {
    return this.#open.some((one) => one.mark === mark);
  }

  #close(mark) {
    if (!this.#has(mark)) return mark.length === 3 && this.#closeTwo(mark[0]);
    while (this.#open.at(-1).mark !== mark) this.#undo();
    this.#open.pop();
    return true;
  }

  /** `**bold *both***`: three close the two that are open. */
  #closeTwo(sign) {
    if (!this.#has(sign) || !this.#has(sign + sign)) return false;
    const innermost = this.#open.at(-1).mark;
    this.#close(innermost);
    return this.#close(innermost === sign ? sign + sign : sign);
  }

  #undo() {
    const { mark, outer, inner } = this.#open.pop();
    outer.before(mark);
    while (inner.firstChild) outer.before(inner.firstChild);
    outer.remove();
  }
}
