// Writes ../dist: index.html, assets with hashed names, and a gzip of each beside it. Usage: node build.mjs
import { build } from "esbuild";
import { cpSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const here = dirname(fileURLToPath(import.meta.url));
const target = join(here, "..", "dist");
const fresh = `${target}.new`; // a gateway that runs meanwhile serves the old one until the new one is whole
const assets = join(fresh, "assets");

rmSync(fresh, { recursive: true, force: true });
mkdirSync(assets, { recursive: true });

const shared = { bundle: true, minify: true, outdir: assets, metafile: true, logLevel: "warning", legalComments: "none" };
const names = { entryNames: "[name]-[hash]", chunkNames: "[name]-[hash]", assetNames: "[name]-[hash]" };
const pages = await build({
  ...shared,
  ...names,
  entryPoints: [{ in: join(here, "src/main.tsx"), out: "main" }],
  format: "esm",
  splitting: true,
  target: ["chrome100", "firefox102", "safari15.4"],
  jsx: "automatic",
  jsxImportSource: "preact",
});
// Before the first paint, so that a dark page does not flash white: not a module, and on its own.
const theme = await build({
  ...shared,
  ...names,
  entryPoints: [{ in: join(here, "src/theme.ts"), out: "theme" }],
  format: "iife",
  target: ["chrome100", "firefox102", "safari15.4"],
});

const outputs = [...Object.keys(pages.metafile.outputs), ...Object.keys(theme.metafile.outputs)].map((path) => basename(path));
let html = readFileSync(join(here, "index.html"), "utf8");
html = html.replaceAll(/\{\{(\w+)\.(\w+)\}\}/g, (_, name, ending) => {
  const found = outputs.filter((output) => output.startsWith(`${name}-`) && output.endsWith(`.${ending}`));
  if (found.length !== 1) throw new Error(`${name}.${ending} was built ${found.length} times`);
  return `/assets/${found[0]}`;
});
// What the first page imports is asked for at once, not only after main.js has been read.
const main = Object.entries(pages.metafile.outputs).find(([, output]) => output.entryPoint?.endsWith("main.tsx"));
const needed = main[1].imports.filter((each) => each.kind === "import-statement").map((each) => basename(each.path));
const preload = needed.map((name) => `<link rel="modulepreload" href="/assets/${name}">\n`).join("");
writeFileSync(join(fresh, "index.html"), html.replace("</head>", `${preload}</head>`));
for (const name of ["favicon.svg", "manifest.webmanifest", "robots.txt"]) cpSync(join(here, name), join(fresh, name));
for (const name of readdirSync(assets)) {
  const path = join(assets, name);
  writeFileSync(`${path}.gz`, gzipSync(readFileSync(path), { level: 9 }));
}
rmSync(target, { recursive: true, force: true });
renameSync(fresh, target);
