// viem's ordinary flow: `node viem_flow.mjs NODE_MODULES URL KEY COUNTER.json`. Prints one JSON object.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const [modules, url, key, artifact] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const viem = require("viem");
const { privateKeyToAccount } = require("viem/accounts");

const { abi, bytecode } = JSON.parse(readFileSync(artifact, "utf8"));
const account = privateKeyToAccount(key);
const transport = viem.http(url, { batch: true });
const pollingInterval = 20;
const open = viem.createPublicClient({ transport, pollingInterval });
const chainId = await open.getChainId();
const chain = viem.defineChain({
  id: chainId,
  name: "site",
  nativeCurrency: { name: "coin", symbol: "COIN", decimals: 18 },
  rpcUrls: { default: { http: [url] } },
});
const client = viem.createPublicClient({ chain, transport, pollingInterval });
const wallet = viem.createWalletClient({ account, chain, transport });
const told = { chainId };

told.balance = await client.getBalance({ address: account.address });
const latest = await client.getBlock();
told.sameBlock = (await client.getBlock({ blockHash: latest.hash })).number === latest.number;
told.byNumber = (await client.getBlock({ blockNumber: latest.number })).hash === latest.hash;

const deployment = await client.waitForTransactionReceipt({
  hash: await wallet.deployContract({ abi, bytecode, args: [40n] }),
});
told.deployed = deployment.status;
const address = deployment.contractAddress;
const contract = { address, abi };
told.before = await client.readContract({ ...contract, functionName: "total" });

const filter = await client.createContractEventFilter({ ...contract, eventName: "Counted" });
const { request, result } = await client.simulateContract({ ...contract, account, functionName: "add", args: [2n] });
told.simulated = result;
told.estimate = await client.estimateContractGas({ ...contract, account, functionName: "add", args: [2n] });
const receipt = await client.waitForTransactionReceipt({ hash: await wallet.writeContract(request) });
told.sent = receipt.status;
told.withinEstimate = receipt.gasUsed <= told.estimate;
told.changes = (await client.getFilterChanges({ filter })).map((log) => log.args);
told.filterLogs = (await client.getFilterLogs({ filter })).length;
told.uninstalled = await client.uninstallFilter({ filter });
const past = await client.getContractEvents({ ...contract, eventName: "Counted", fromBlock: 0n, args: { by: account.address } });
told.past = past.map((log) => log.args.total);
told.transaction = (await client.getTransaction({ hash: receipt.transactionHash })).blockHash === receipt.blockHash;

const refusal = async (amount) => {
  try {
    await client.simulateContract({ ...contract, account, functionName: "add", args: [amount] });
    return null;
  } catch (error) {
    const revert = error.walk((one) => one instanceof viem.ContractFunctionRevertedError);
    return { name: revert.data?.errorName, args: revert.data?.args, reason: revert.reason };
  }
};
told.text = await refusal(0n);
told.custom = await refusal(1001n);

const history = await client.getFeeHistory({ blockCount: 4, rewardPercentiles: [25, 75] });
told.history = history.baseFeePerGas.length === history.gasUsedRatio.length + 1 && history.reward.every((row) => row.length === 2);
told.fees = Object.keys(await client.estimateFeesPerGas()).sort();
told.pending = await client.getTransactionCount({ address: account.address, blockTag: "pending" });
told.mined = await client.getTransactionCount({ address: account.address });

const several = await client.multicall({
  multicallAddress: "0xcA11bde05977b3631167028862bE2a173976CA11",
  contracts: [{ ...contract, functionName: "total" }, { ...contract, functionName: "total" }],
});
told.multicall = several.map((one) => one.result);
const poor = privateKeyToAccount(`0x${"77".repeat(32)}`);
told.poor = await wallet
  .sendTransaction({ account: poor, to: address, value: 1n, gas: 21000n })
  .then(() => null, (error) => error.walk((one) => one instanceof viem.InsufficientFundsError)?.name);

console.log(JSON.stringify(told, (_, value) => (typeof value === "bigint" ? Number(value) : value)));
