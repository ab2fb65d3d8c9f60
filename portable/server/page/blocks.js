/**
 * Markdown's blocks: lines -> what they are. Pure, and linear in the text.
 *
 * A block is { kind, start, end } (offsets into the text) and what its kind needs: code { language,
 * text }, heading { level, text }, quote { text }, list { ordered, first, items: texts },
 * table { align, rows: cells }, rule, paragraph { text }.
 */

const FENCE = /^ {0,3}(`{3,}(?!`)|~{3,}(?!~))([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:\s(.*))?$/;
const RULE = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(?: {1,4}|\t|$)/;
const DIVIDER = /^\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?$/;

export function blocks(text) {
  const lines = text.split("\n");
  const starts = [0];
  for (const line of lines) starts.push(starts.at(-1) + line.length + 1);
  const found = [];
  for (let at = 0; at < lines.length;) {
    if (!lines[at].trim()) {
      at += 1;
      continue;
    }
    const { lines: count, ...block } = read(lines, at);
    found.push({ ...block, start: starts[at], end: Math.min(starts[at + count], text.length) });
    at += count;
  }
  return found;
}

/** The block that begins at this line, and how many lines it takes. */
function read(lines, at) {
  const line = lines[at];
  if (FENCE.test(line)) return code(lines, at);
  const heading = HEADING.exec(line);
  if (heading)
    return { kind: "heading", level: heading[1].length, text: title(heading[2]), lines: 1 };
  if (RULE.test(line)) return { kind: "rule", lines: 1 };
  if (QUOTE.test(line)) return quote(lines, at);
  if (ITEM.test(line)) return list(lines, at);
  if (isTable(lines, at)) return table(lines, at);
  return paragraph(lines, at);
}

function title(text = "") {
  return text.trim().replace(/\s#+$/, "");
}

function code(lines, at) {
  const [, fence, language] = FENCE.exec(lines[at]);
  const indent = lines[at].search(/\S/);
  const closing = new RegExp(`^ {0,3}\\${fence[0]}{${fence.length},}\\s*$`);
  let end = at + 1;
  while (end < lines.length && !closing.test(lines[end])) end += 1;
  const inner = lines
    .slice(at + 1, end)
    .map((line) => line.slice(Math.min(indent, line.search(/\S|$/))));
  const closed = end < lines.length;
  return {
    kind: "code",
    language: language.trim(),
    text: inner.join("\n"),
    lines: end - at + (closed ? 1 : 0),
  };
}

function quote(lines, at) {
  const end = endOf(lines, at, (line) => QUOTE.test(line));
  const text = lines
    .slice(at, end)
    .map((line) => line.replace(QUOTE, ""))
    .join("\n");
  return { kind: "quote", text, lines: end - at };
}

/** Items of one kind, with everything that is indented below them. */
function list(lines, at) {
  const ordered = isOrdered(ITEM.exec(lines[at]));
  const items = [];
  let end = at;
  let base = 0; // where the marker begins, and below it where the text does
  let indent = 0;
  for (let next = at; next < lines.length; next += 1) {
    const line = lines[next].replace(/^\t+/, (tabs) => "    ".repeat(tabs.length));
    if (!line.trim()) continue;
    const deep = line.search(/\S/);
    const item = RULE.test(line) ? null : ITEM.exec(line);
    // Two spaces are enough, also below `1. `: models write it so.
    if (next > at && deep >= base + 2)
      items.at(-1).push(...blank(end, next), line.slice(Math.min(deep, indent)));
    else if (item && isOrdered(item) === ordered) {
      [base, indent] = [item[1].length, item[0].length + (item[0].endsWith(item[2]) ? 1 : 0)];
      items.push([line.slice(item[0].length)]);
    } else if (next === end && !starts(lines, next)) items.at(-1).push(line.trimStart());
    else break;
    end = next + 1;
  }
  const first = ordered ? parseInt(lines[at].trimStart(), 10) : 1;
  return {
    kind: "list",
    ordered,
    first,
    items: items.map((item) => item.join("\n")),
    lines: end - at,
  };
}

function isOrdered(item) {
  return /\d/.test(item[2]);
}

/** One empty line for any number of them between two lines of an item. */
function blank(end, next) {
  return next > end ? [""] : [];
}

function isTable(lines, at) {
  const next = lines[at + 1];
  return (
    lines[at].includes("|") &&
    next !== undefined &&
    next.includes("-") &&
    DIVIDER.test(next.trim()) &&
    cells(lines[at]).length === cells(next).length
  );
}

function table(lines, at) {
  const end = endOf(lines, at + 2, (line) => line.includes("|"));
  const align = cells(lines[at + 1]).map((cell) => {
    if (!cell.endsWith(":")) return "";
    return cell.startsWith(":") ? "center" : "right";
  });
  const rows = [lines[at], ...lines.slice(at + 2, end)].map((line) =>
    cells(line).slice(0, align.length),
  );
  return { kind: "table", align, rows, lines: end - at };
}

/** The cells of a row; `\|` and a | inside of code are no borders. */
function cells(line) {
  const inner = line
    .trim()
    .replace(/^\|/, "")
    .replace(/(?<!\\)\|$/, "");
  const found = [""];
  for (const [part] of inner.matchAll(/\\\||`[^`]*`|\||[^\\|`]+|[\\`]/g)) {
    if (part === "|") found.push("");
    else found[found.length - 1] += part === "\\|" ? "|" : part;
  }
  return found.map((cell) => cell.trim());
}

function paragraph(lines, at) {
  const end = endOf(lines, at + 1, (line, next) => line.trim() && !starts(lines, next));
  return { kind: "paragraph", text: lines.slice(at, end).join("\n").trim(), lines: end - at };
}

/** Whether a block of its own begins here, in the middle of a paragraph. */
function starts(lines, at) {
  const line = lines[at];
  return (
    [FENCE, HEADING, RULE, QUOTE].some((mark) => mark.test(line)) ||
    /^ {0,3}(?:[-*+]|\d{1,3}[.)]) +\S/.test(line) ||
    isTable(lines, at)
  );
}

function endOf(lines, from, holds) {
  let end = from;
  while (end < lines.length && holds(lines[end], end)) end += 1;
  return end;
}
