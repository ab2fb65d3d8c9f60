/** Which models there are, how the server is, and how full the context is. */

import { health, models } from "./api.js";
import { path } from "./conversation.js";
import { byId, el } from "./dom.js";
import { number, say } from "./words.js";

const NEARLY_FULL = 0.8;

export class Status {
  #settings;
  #models = [];
  #watching = false;
  #unkept = false;

  /** `refused` is called with what went wrong when the list of models could not be had. */
  constructor(settings, refused) {
    this.#settings = settings;
    this.refused = refused;
    byId("model").addEventListener("change", () => settings.set("model", byId("model").value));
  }

  /** The id of the chosen model; "" while none is known. */
  get model() {
    return byId("model").value;
  }

  /** What the server tells of it. */
  get chosen() {
    return this.#models.find(({ id }) => id === this.model);
  }

  /** The browser does not keep conversations: said until something more urgent is. */
  unkept() {
    this.#unkept = true;
    this.#say(null);
  }

  /** Ask until the server is ready; the banner tells what is waited for. */
  async watch() {
    if (this.#watching) return;
    this.#watching = true;
    for (let now; (now = await health()).status !== "ok";) {
      this.#say(now);
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
    this.#watching = false;
    this.#say(null);
    await this.refresh();
  }

  /** Read the list of models again. */
  async refresh() {
    try {
      this.#models = (await models()).filter(isForChat);
    } catch (error) {
      this.refused(error);
    }
    this.update();
  }

  update() {
    const select = byId("model");
    const ids = this.#models.map(({ id }) => id);
    const chosen = ids.includes(this.#settings.model) ? this.#settings.model : ids[0];
    select.replaceChildren(
      ...ids.map((id) => el("option", { value: id, selected: id === chosen }, id)),
    );
    if (!ids.length) select.append(el("option", { value: "" }, say("noModel")));
    select.title = select.value;
  }

  /** How much of the model's context the conversation takes, as of its last whole answer. */
  showContext(conversation) {
    const all = this.chosen?.meta?.n_ctx;
    const shown = path(conversation);
    const at = shown.findLastIndex((message) => message.usage);
    const used = shown[at]?.usage.total_tokens ?? 0;
    byId("context").hidden = !all || !used;
    if (!all || !used) return;
    const share = used / all;
    const more = at < shown.length - 1 ? "≥ " : "";
    const percent = Math.min(100, Math.round(100 * share));
    byId("context-meter").setAttribute("aria-valuenow", percent);
    byId("context-meter").firstChild.style.width = `${percent}%`;
    const words = { used: more + number(used), all: number(all) };
    byId("context-text").textContent = say(share >= NEARLY_FULL ? "contextFull" : "context", words);
    byId("context").classList.toggle("full", share >= NEARLY_FULL);
  }

  #say(now) {
    const words = now ? banner(now) : this.#unkept && say("bannerUnkept");
    byId("banner").hidden = !words;
    byId("banner-progress").hidden = now?.status !== "loading";
    byId("banner-progress").value = now?.progress ?? 0;
    // The same words again would be read aloud again.
    if (byId("banner-text").textContent !== words) byId("banner-text").textContent = words || "";
  }
}

/** Models that make vectors or scores cannot answer; of one that is not loaded it is not known. */
function isForChat({ meta }) {
  return (meta?.task ?? "generate") === "generate";
}

function banner({ status, message }) {
  if (status === "loading") return say("bannerLoading");
  if (status === "failed") return say("bannerFailed", { message });
  return say("bannerAway");
}
