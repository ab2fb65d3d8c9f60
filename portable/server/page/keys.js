/** The keyboard's shortcuts. */

import { byId } from "./dom.js";

/** `acts`: stop, startAnew, editLast, hideSidebar. Nothing happens below an open dialog. */
export function listenToKeys(acts) {
  addEventListener("keydown", (event) => {
    if (event.isComposing || document.querySelector("dialog[open], :popover-open")) return;
    const act = actOf(event, acts);
    if (!act) return;
    event.preventDefault();
    act();
  });
}

function actOf(event, { stop, startAnew, editLast, hideSidebar }) {
  const control = event.ctrlKey || event.metaKey;
  const key = event.key.toLowerCase();
  const inField = event.target.matches("input, textarea, select");
  if (key === "escape") {
    if (document.body.classList.contains("sidebar")) return hideSidebar;
    return event.target === byId("search") ? null : stop; // there it means: clear
  }
  if (control && event.shiftKey && key === "o") return startAnew;
  if (control && key === "k") return () => byId("search").focus();
  if (key === "/" && !inField && !control) return () => byId("message").focus();
  const emptyBox = event.target === byId("message") && !event.target.value;
  if (key === "arrowup" && emptyBox && !document.body.classList.contains("answering"))
    return editLast;
  return null;
}
