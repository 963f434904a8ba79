// Light or dark: the system's choice, unless the operator made one. Runs before the page is painted.
const stored = (() => {
  try {
    return localStorage.getItem("metergate-theme");
  } catch {
    return null; // storage is blocked: the system's choice it is
  }
})();
const dark = matchMedia("(prefers-color-scheme: dark)");

document.documentElement.dataset["choice"] = stored === "dark" || stored === "light" ? stored : "auto";

function apply(): void {
  const { choice } = document.documentElement.dataset;
  const theme = choice === "auto" ? (dark.matches ? "dark" : "light") : (choice ?? "light");
  document.documentElement.dataset["theme"] = theme;
  dispatchEvent(new Event("metergate-theme"));
}

dark.addEventListener("change", apply);
addEventListener("metergate-choice", apply);
apply();
