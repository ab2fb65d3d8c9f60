/** The page: what is open, which answers are on their way; puts the parts together. */

import { Answer } from "./answer.js";
import { hasKey, keepKey } from "./api.js";
import { ask } from "./ask.js";
import { Composer } from "./composer.js";
import {
  add,
  choose,
  drop,
  newConversation,
  newMessage,
  parentOf,
  path,
  request,
} from "./conversation.js";
import { byId, el } from "./dom.js";
import { listenToKeys } from "./keys.js";
import { listenToMenu } from "./menu.js";
import { openPreferences } from "./preferences.js";
import { Settings } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import { Status } from "./status.js";
import { Store } from "./store.js";
import { Transcript } from "./transcript.js";
import { nameOf } from "./trouble.js";
import { say, setLanguage } from "./words.js";

const SAVE_EVERY = 1000; // milliseconds, while an answer grows
const SPOKEN = 1000; // characters of an answer that a screen reader gets unasked
const EXAMPLES = ["example1", "example2", "example3", "example4"];

const settings = new Settings();
setLanguage(settings.language);
const store = await Store.open();
const answers = new Map(); // by the id of the conversation that they belong to
let open = newConversation(settings.system);
let keyAsked = null;

const startAnew = () => goTo("");
const stop = () => answers.get(open.id)?.stop();
const status = new Status(settings, troubled);
const composer = new Composer({ send: (text) => send(text, path(open).at(-1)), stop });
const transcript = new Transcript({
  again,
  edit: (message, text) => send(text, parentOf(open, message)),
  turn,
  startAnew,
});
const sidebar = new Sidebar(store, {
  open: goTo,
  renamed: keep,
  deleted: remove,
  isRunning: (id) => answers.has(id),
  isOpen: (id) => id === open.id,
});

// Which conversation is open. The address says it, so that Back and a reload keep it.

function goTo(id) {
  location.hash = id;
  if (!id || open.id !== id) openFromAddress();
}

function openFromAddress() {
  open = store.conversations.get(location.hash.slice(1)) ?? newConversation(settings.system);
  sidebar.slide(false);
  render(true);
  transcript.toEnd();
  composer.invite();
}

/** What the address says while this conversation is open. */
function addressOf(conversation) {
  return conversation.messages.length ? conversation.id : "";
}

function render(anew = false) {
  transcript.show(open, anew);
  sidebar.update();
  renderState();
}

/** What changes when an answer begins or ends. */
function renderState() {
  const running = answers.has(open.id);
  composer.setRunning(running);
  document.body.classList.toggle("answering", running);
  document.title = open.title ? `${open.title} – portable` : "portable";
  status.showContext(open);
}

function turn(message) {
  choose(open, message);
  keep(open);
  render();
  transcript.view(message).focus();
}

function keep(conversation) {
  store.save(conversation);
  sidebar.update();
}

/** Keep what has changed in a conversation that may have been deleted meanwhile. */
function keepIfKnown(conversation) {
  if (store.conversations.has(conversation.id)) store.save(conversation);
}

function remove(id) {
  answers.get(id)?.stop();
  store.remove(id);
  if (open.id === id) startAnew();
  else byId("new").focus();
  sidebar.update();
}

// Asking and answering.

/** Send a text as a new message below `parent`. */
function send(text, parent) {
  if (!answers.has(open.id)) answer(add(open, newMessage("user", text), parent));
}

/** Answer once more; an answer that says nothing makes room for the next one. */
function again(message) {
  if (answers.has(open.id)) return;
  const asked = parentOf(open, message);
  if (!message.text && !message.reasoning) drop(open, message);
  answer(asked);
}

async function answer(asked) {
  const conversation = open;
  const messages = request(conversation, asked);
  const body = { model: status.model || undefined, messages, ...settings.request() };
  const message = add(conversation, newMessage("assistant", "", { model: status.model }), asked);
  const current = new Answer(message, () => open === conversation && transcript.changed(message));
  answers.set(conversation.id, current);
  keep(conversation);
  goTo(conversation.id);
  render();
  transcript.toEnd();
  if (document.activeElement === document.body) composer.invite(); // its button is gone
  announce(say("answering"));
  const saving = setInterval(keepIfKnown, SAVE_EVERY, conversation);
  await current.run(body);
  clearInterval(saving);
  answers.delete(conversation.id);
  ended(conversation, message);
}

function ended(conversation, message) {
  keepIfKnown(conversation);
  sidebar.update();
  if (conversation === open) {
    transcript.view(message)?.update(); // not a moment after the buttons
    renderState();
    const { error, text } = message;
    announce(error ? nameOf(error) : say("answered", { text: text.slice(0, SPOKEN) }));
  }
  if (message.error) troubled(message.error, message);
  else status.refresh().then(renderState);
}

/** After an error: ask for the key, or wait for the server. */
async function troubled(error, message = null) {
  if (error.status === 401) {
    if (!(await askKey())) return;
    await status.refresh();
    if (message && path(open).at(-1) === message) again(message);
  } else if (!error.status || error.status >= 500 || error.code === "backend_error") {
    await status.watch();
  }
  renderState();
}

/** True when the user gave a key. However many requests want one, the user is asked once. */
function askKey() {
  const text = say(hasKey() ? "keyWrong" : "keyText");
  const question = {
    title: say("keyTitle"),
    text,
    value: "",
    type: "password",
    yes: say("keyYes"),
  };
  keyAsked ??= ask(question).then((key) => {
    keyAsked = null;
    if (key) keepKey(key.trim());
    return Boolean(key);
  });
  return keyAsked;
}

function announce(text) {
  byId("announcer").textContent = text;
}

// Words and colours.

function sayExamples() {
  const cards = EXAMPLES.map((name) =>
    el("li", {}, el("button", { type: "button", click: () => send(say(name), null) }, say(name))),
  );
  byId("examples").replaceChildren(...cards);
}

function changed(name) {
  if (name === "theme") showTheme();
  else if (name === "language") sayEverything();
  else if (name === "system") {
    open.system = settings.system;
    if (open.messages.length) keep(open);
  }
}

function showTheme() {
  if (settings.theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = settings.theme;
}

function sayEverything() {
  setLanguage(settings.language);
  sayExamples();
  status.update();
  render(true);
}

// What the user does.

byId("new").addEventListener("click", startAnew);
byId("open-settings").addEventListener("click", () => {
  openPreferences(settings, open, status.chosen, changed);
});
addEventListener("hashchange", () => {
  if (addressOf(open) !== location.hash.slice(1)) openFromAddress();
});
store.onChange((id) => {
  sidebar.update();
  if (id !== open.id || answers.has(id)) return;
  open = store.conversations.get(id) ?? newConversation(settings.system);
  render(true);
});
listenToMenu({
  open: () => open,
  all: () => store.list(),
  bringIn: (found) => {
    for (const one of found) store.save(one);
    announce(say("imported", { count: found.length }));
    if (found.length) goTo(found[0].id);
  },
});
listenToKeys({
  stop,
  startAnew,
  editLast: () => transcript.view(path(open).findLast(({ role }) => role === "user"))?.edit(),
  hideSidebar: () => sidebar.slide(false),
});

sayExamples();
openFromAddress();
if (!store.kept) status.unkept();
status.refresh();
status.watch().then(renderState);
