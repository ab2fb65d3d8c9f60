/** The menu of exports and the import. */

import { ask } from "./ask.js";
import { byId, download } from "./dom.js";
import { fileName, fromJson, toJson, toMarkdown } from "./transfer.js";
import { say } from "./words.js";

/** `open()` is the open conversation, `all()` are all of them, `bringIn(found)` keeps new ones. */
export function listenToMenu({ open, all, bringIn }) {
  const acts = {
    markdown: () => download(fileName(open().title, "md"), "text/markdown", toMarkdown(open())),
    json: () => download(fileName(open().title, "json"), "application/json", toJson([open()])),
    all: () => download("portable.json", "application/json", toJson(all())),
    import: () => byId("file").click(),
  };
  byId("menu").addEventListener("click", ({ target }) => {
    if (!target.dataset.do) return;
    byId("menu").hidePopover();
    acts[target.dataset.do]();
  });
  byId("menu").addEventListener("beforetoggle", () => {
    const empty = !open().messages.length;
    for (const name of ["markdown", "json"])
      document.querySelector(`[data-do=${name}]`).disabled = empty;
  });
  byId("file").addEventListener("change", async () => {
    const [file] = byId("file").files;
    if (file) await read(file, bringIn);
    byId("file").value = "";
  });
}

async function read(file, bringIn) {
  let found;
  try {
    found = fromJson(await file.text());
  } catch {
    ask({ title: say("importFailed"), text: say("importHint"), yes: say("ok") });
    return;
  }
  bringIn(found);
}
