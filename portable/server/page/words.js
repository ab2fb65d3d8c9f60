/** Every word that the page says, in English and in Chinese, side by side. */

const WORDS = {
  skip: ["Skip to the message box", "跳到输入框"],
  conversations: ["Conversations", "对话"],
  showConversations: ["Show conversations", "显示对话列表"],
  newChat: ["New chat", "新对话"],
  search: ["Search", "搜索"],
  noneFound: ["Nothing found", "没有找到"],
  noneYet: ["Your conversations will be listed here.", "你的对话会列在这里。"],
  settings: ["Settings", "设置"],
  close: ["Close", "关闭"],
  cancel: ["Cancel", "取消"],
  model: ["Model", "模型"],
  noModel: ["No model", "没有模型"],
  exportImport: ["Export and import", "导出和导入"],
  exportMarkdown: ["Export as Markdown", "导出为 Markdown"],
  exportJson: ["Export as JSON", "导出为 JSON"],
  exportAll: ["Export all conversations", "导出所有对话"],
  importJson: ["Import conversations …", "导入对话…"],
  imported: ["{count} imported", "已导入 {count} 个对话"],
  importFailed: ["This file cannot be imported", "无法导入这个文件"],
  importHint: [
    "It is not a JSON file that this page exported.",
    "它不是由本页面导出的 JSON 文件。",
  ],
  ok: ["OK", "好"],

  welcome: ["What can I help with?", "有什么可以帮你？"],
  welcomeText: [
    "The model runs on your own server. Conversations are kept in this browser only.",
    "模型运行在你自己的服务器上，对话只保存在这个浏览器里。",
  ],
  example1: ["Explain how rainbows form, in simple words", "用简单的话解释彩虹是怎么形成的"],
  example2: [
    "Write a short e-mail that politely declines a meeting",
    "写一封简短的邮件，礼貌地谢绝一个会议",
  ],
  example3: [
    "Write a Python function that finds duplicate files",
    "写一个查找重复文件的 Python 函数",
  ],
  example4: [
    "Suggest three quick dinners with eggs and spinach",
    "推荐三道用鸡蛋和菠菜做的快手晚餐",
  ],

  messages: ["Messages", "消息列表"],
  message: ["Message", "消息"],
  messagePlaceholder: ["Ask anything", "问点什么吧"],
  send: ["Send", "发送"],
  stop: ["Stop (Esc)", "停止（Esc）"],
  latest: ["Jump to the latest", "跳到最新"],
  keysHint: ["Enter sends, Shift + Enter begins a new line", "Enter 发送，Shift + Enter 换行"],
  context: ["{used} of {all} tokens", "{used} / {all} tokens"],
  contextFull: [
    "{used} of {all} tokens: start a new chat soon",
    "{used} / {all} tokens：请尽快开始新对话",
  ],

  you: ["You", "你"],
  assistant: ["Assistant", "助手"],
  edit: ["Edit", "编辑"],
  saveAndSend: ["Send", "发送"],
  copy: ["Copy", "复制"],
  copyCode: ["Copy code", "复制代码"],
  code: ["Code", "代码"],
  table: ["Table", "表格"],
  again: ["Regenerate", "重新生成"],
  previous: ["Previous version", "上一个版本"],
  next: ["Next version", "下一个版本"],
  version: ["{at} of {all}", "{at} / {all}"],
  rename: ["Rename", "重命名"],
  delete: ["Delete", "删除"],
  deleteTitle: ["Delete this conversation?", "删除这个对话？"],
  deleteText: ["“{title}” will be gone for good.", "“{title}”将被永久删除。"],
  thoughtSoFar: ["Thinking …", "思考中…"],
  thinking: ["Thinking", "思考"],
  thought: ["Thought for {seconds} s", "思考了 {seconds} 秒"],
  thoughts: ["Thoughts", "思考过程"],
  stats: ["{tokens} tokens · {speed} tokens/s", "{tokens} tokens · {speed} tokens/秒"],
  statsDetails: [
    "first token after {first} s; prompt {prompt} tokens, {cached} of them reused",
    "首个 token 用时 {first} 秒；提示词 {prompt} tokens，其中 {cached} 个重用",
  ],
  waiting: ["Waiting for the model …", "等待模型…"],
  queued: ["Waiting in the queue: {position} before you", "排队中：前面还有 {position} 个请求"],
  loading: ["The model is loading …", "模型正在加载…"],
  reading: ["Reading the conversation … {percent} %", "正在读取对话… {percent} %"],
  readingFor: [
    "Reading the conversation … {percent} %, about {seconds} s more",
    "正在读取对话… {percent} %，还需约 {seconds} 秒",
  ],
  stopped: ["Stopped", "已停止"],
  cut: ["The answer reached its token limit.", "回答达到了 token 上限。"],
  answering: ["The model is answering", "模型正在回答"],
  answered: ["Answer: {text}", "回答：{text}"],

  bannerLoading: [
    "The model is loading. You can write already; the answer follows.",
    "模型正在加载。你可以先写，之后会回答。",
  ],
  bannerFailed: ["The model could not be loaded: {message}", "模型无法加载：{message}"],
  bannerAway: ["The server does not answer. Trying again …", "服务器没有响应，正在重试…"],
  bannerUnkept: [
    "This browser keeps nothing here: conversations are gone when the page is closed.",
    "浏览器不允许保存：关闭页面后对话会丢失。",
  ],

  keyTitle: ["API key", "API 密钥"],
  keyText: [
    "This server asks for its key. It is kept until this tab is closed.",
    "这个服务器需要密钥。密钥只保存到标签页关闭为止。",
  ],
  keyWrong: ["The server did not accept that key.", "服务器没有接受这个密钥。"],
  keyYes: ["Continue", "继续"],

  retry: ["Try again", "重试"],
  errorBusy: ["The server is busy", "服务器正忙"],
  errorBusyDo: ["Try again in about {seconds} s.", "请大约 {seconds} 秒后重试。"],
  errorLoading: ["The model is still loading", "模型还在加载"],
  errorLoadingDo: ["Try again when the bar at the top is gone.", "请等上方的进度条消失后重试。"],
  errorNetwork: ["The connection to the server was lost", "与服务器的连接断开了"],
  errorNetworkDo: [
    "What was answered is kept. Check that the server runs, then try again.",
    "已收到的回答会保留。请确认服务器正在运行，然后重试。",
  ],
  errorBackend: ["The model broke off", "模型中断了"],
  errorBackendDo: [
    "What was answered is kept. The server starts the model again; try again in a moment.",
    "已收到的回答会保留。服务器会重新启动模型，请稍后重试。",
  ],
  errorLong: ["The conversation is too long for this model", "对话超出了模型的长度"],
  errorLongDo: [
    "Start a new chat, edit an earlier message, or start the server with a larger --context.",
    "请开始新对话、编辑较早的消息，或用更大的 --context 启动服务器。",
  ],
  errorKey: ["The server asks for a key", "服务器需要密钥"],
  errorKeyDo: ["Try again and enter the key.", "请重试并输入密钥。"],
  errorModel: ["The server does not have this model", "服务器没有这个模型"],
  errorModelDo: [
    "Choose another one at the top, then try again.",
    "请在上方选择其他模型，然后重试。",
  ],
  errorOther: ["The server refused the request", "服务器拒绝了请求"],
  errorOtherDo: [
    "Change the message or the settings, then try again.",
    "请修改消息或设置，然后重试。",
  ],

  systemPrompt: ["System prompt", "系统提示词"],
  systemHint: [
    "For this conversation; new ones begin with it, too.",
    "用于当前对话；新对话也会使用它。",
  ],
  systemPlaceholder: ["You are a helpful assistant.", "你是一个乐于助人的助手。"],
  sampling: ["Sampling", "采样"],
  samplingHint: ["Left empty: the model’s own defaults.", "留空则使用模型的默认值。"],
  default: ["default", "默认"],
  temperature: ["Temperature", "温度"],
  temperatureHint: ["0 – 2. Lower: more predictable.", "0 – 2，越低越稳定。"],
  top_p: ["Top P", "Top P"],
  top_pHint: [
    "0 – 1. Only the likeliest words, up to this share.",
    "0 – 1，只取累计概率内最可能的词。",
  ],
  top_k: ["Top K", "Top K"],
  top_kHint: ["Only this many words to choose from; 0: all.", "只从这么多词里选；0 表示全部。"],
  min_p: ["Min P", "Min P"],
  min_pHint: [
    "0 – 1. No word less likely than this share of the likeliest.",
    "0 – 1，去掉低于最可能词这一比例的词。",
  ],
  repeat_penalty: ["Repetition penalty", "重复惩罚"],
  repeat_penaltyHint: ["0.1 – 10. Above 1: fewer repetitions.", "0.1 – 10，大于 1 时减少重复。"],
  max_tokens: ["Longest answer", "最长回答"],
  max_tokensHint: ["In tokens.", "以 token 计。"],
  seed: ["Seed", "随机种子"],
  seedHint: ["The same number repeats the same answer.", "相同的数字得到相同的回答。"],
  modelName: ["Name", "名称"],
  modelKind: ["Kind", "类型"],
  modelSize: ["Size", "大小"],
  modelPlace: ["Runs", "运行位置"],
  modelContext: ["Context", "上下文"],
  modelTokens: ["{context} tokens, trained for {trained}", "{context} tokens，训练长度 {trained}"],
  thinkingHint: ["For models that can think before they answer.", "用于能在回答前思考的模型。"],
  modelDefault: ["Model’s default", "模型默认"],
  on: ["On", "开"],
  off: ["Off", "关"],
  appearance: ["Appearance", "外观"],
  theme: ["Theme", "主题"],
  language: ["Language", "语言"],
  asSystem: ["As the system", "跟随系统"],
  light: ["Light", "浅色"],
  dark: ["Dark", "深色"],
  keyboard: ["Keyboard", "键盘"],
  keySend: ["Send", "发送"],
  keyLine: ["New line", "换行"],
  keyStop: ["Stop the answer", "停止回答"],
  keyEdit: ["Edit the last message (in an empty box)", "编辑上一条消息（输入框为空时）"],
  keyNew: ["New chat", "新对话"],
  keySearch: ["Search", "搜索"],
  keyFocus: ["Go to the message box", "转到输入框"],
};

let column = 0;

/** `en` or `zh`; `auto` is what the browser prefers. */
export function setLanguage(chosen) {
  const language = chosen === "auto" ? navigator.language : chosen;
  column = language.toLowerCase().startsWith("zh") ? 1 : 0;
  document.documentElement.lang = column ? "zh-CN" : "en";
  sayAll();
}

/** The words of that name; `{name}` in them becomes `values.name`. */
export function say(key, values = {}) {
  return WORDS[key][column].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

export function number(value, digits = 0) {
  return value.toLocaleString(document.documentElement.lang, {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  });
}

/** The words of index.html itself: text, name with tooltip, or placeholder of an element. */
function sayAll() {
  for (const node of document.querySelectorAll("[data-say]"))
    node.textContent = say(node.dataset.say);
  for (const node of document.querySelectorAll("[data-say-label]")) {
    node.setAttribute("aria-label", say(node.dataset.sayLabel));
    if (node.localName === "button") node.title = say(node.dataset.sayLabel);
  }
  for (const node of document.querySelectorAll("[data-say-placeholder]")) {
    node.placeholder = say(node.dataset.sayPlaceholder);
  }
}
