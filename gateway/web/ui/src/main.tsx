// Where the page starts.
import "./styles/base.css";
import "uplot/dist/uPlot.min.css";
import "./styles/frame.css";
import "./styles/parts.css";
import { render } from "preact";
import { App } from "./app";
import { followLinks } from "./router";

followLinks();
const root = document.getElementById("app");
if (root === null) throw new Error("index.html has no #app");
root.textContent = "";
render(<App />, root);
