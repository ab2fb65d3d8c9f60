/** Making nodes. Text goes in as text nodes only: whatever a model says, it is never markup. */

/** An element; attributes whose value is a function are listeners, null and false are left out. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== null && value !== false) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

export function byId(id) {
  return document.getElementById(id);
}

const SVG = "http://www.w3.org/2000/svg";

/** One of the symbols that index.html draws. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

/** A button that shows only a symbol; `label` is what it is called. */
export function iconButton(name, label, click) {
  return el(
    "button",
    { type: "button", class: "icon", "aria-label": label, title: label, click },
    icon(name),
  );
}

/** Copy a text, and show on the button that it is done. */
export async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Only pages from this machine or over https get a clipboard; the old way works everywhere.
    copyByHand(text);
  }
  const symbol = button.querySelector("use");
  symbol.setAttribute("href", "#i-done");
  setTimeout(() => symbol.setAttribute("href", "#i-copy"), 1500);
}

function copyByHand(text) {
  const field = el("textarea", { class: "unseen" });
  const focused = document.activeElement;
  field.value = text;
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
  focused?.focus();
}

/** Give a file to the user. */
export function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
