// What viem makes of statements: `node statement_viem.mjs NODE_MODULES < statements.json` prints digests and signers.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const require = createRequire(`${process.argv[2]}/`);
const viem = require("viem");

const told = [];
for (const { signature, ...typed } of JSON.parse(readFileSync(0, "utf8"))) {
  const signer = await viem.recoverTypedDataAddress({ ...typed, signature });
  told.push({ digest: viem.hashTypedData(typed), signer: signer.toLowerCase() });
}
console.log(JSON.stringify(told));
