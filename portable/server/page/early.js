// Runs before the first paint: the theme that was chosen. settings.js owns what is read here.
try {
  const { theme } = JSON.parse(localStorage.getItem("portable.settings"));
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Nothing chosen yet, or nothing may be kept here: the system's theme.
}
