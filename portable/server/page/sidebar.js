/** The list of conversations: open, find, rename, delete; on a narrow page it slides in. */

import { ask } from "./ask.js";
import { matches } from "./conversation.js";
import { byId, el, iconButton } from "./dom.js";
import { say } from "./words.js";

export class Sidebar {
  #store;
  #acts;
  #narrow = matchMedia("(max-width: 760px)");

  /** `acts`: open(id), renamed(conversation), deleted(id), isRunning(id), isOpen(id). */
  constructor(store, acts) {
    this.#store = store;
    this.#acts = acts;
    byId("search").addEventListener("input", () => this.update());
    byId("show-sidebar").addEventListener("click", () => this.slide(true));
    byId("hide-sidebar").addEventListener("click", () => this.slide(false));
    byId("shade").addEventListener("click", () => this.slide(false));
    this.#narrow.addEventListener("change", () => this.slide(false));
    this.slide(false);
  }

  /** In or out; on a wide page it always stands there. */
  slide(shown) {
    const narrow = this.#narrow.matches;
    const was = document.body.classList.contains("sidebar");
    document.body.classList.toggle("sidebar", shown && narrow);
    byId("sidebar").inert = narrow && !shown;
    byId("room").inert = narrow && shown;
    byId("show-sidebar").setAttribute("aria-expanded", String(shown && narrow));
    if (shown) byId("hide-sidebar").focus();
    else if (was && narrow) byId("show-sidebar").focus();
  }

  update() {
    const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const all = this.#store.list();
    const found = words.length ? all.filter((one) => matches(one, words)) : all;
    const focused = focusedItem();
    byId("conversations").replaceChildren(...found.map((one) => this.#item(one)));
    focused?.();
    byId("none-found").textContent = found.length ? "" : say(all.length ? "noneFound" : "noneYet");
  }

  #item(one) {
    const open = this.#acts.isOpen(one.id);
    const title = el(
      "button",
      {
        type: "button",
        class: "title",
        title: one.title,
        "aria-current": open && "true",
        dir: "auto",
        click: () => this.#open(one.id),
      },
      one.title,
    );
    return el(
      "li",
      { "data-id": one.id, class: this.#acts.isRunning(one.id) ? "running" : null },
      title,
      iconButton("edit", `${say("rename")}: ${one.title}`, () => this.#rename(one)),
      iconButton("delete", `${say("delete")}: ${one.title}`, () => this.#delete(one)),
    );
  }

  #open(id) {
    this.slide(false);
    this.#acts.open(id);
  }

  async #rename(one) {
    const title = await ask({ title: say("rename"), value: one.title, yes: say("ok") });
    if (!title?.trim()) return;
    one.title = title.trim();
    this.#acts.renamed(one);
  }

  async #delete(one) {
    const text = say("deleteText", { title: one.title });
    const sure = await ask({ title: say("deleteTitle"), text, yes: say("delete"), danger: true });
    if (sure !== null) this.#acts.deleted(one.id);
  }
}

/** How to bring the focus back to the button that has it, once the list is made anew. */
function focusedItem() {
  const button = document.activeElement;
  const item = button.closest("#conversations li");
  if (!item) return null;
  const at = [...item.children].indexOf(button);
  return () => document.querySelector(`[data-id="${item.dataset.id}"]`)?.children[at].focus();
}
