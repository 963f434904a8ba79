"""`metergate init`, and how a command opens the keys."""

import argparse
import getpass
import json
import os
import sys
from pathlib import Path

from devices.topics import is_id
from gateway.broker_files import DIRECTORY, PORT, SETTINGS, gateway_user, write_broker_files
from gateway.config import Config
from gateway.errors import SetupError
from gateway.keys import KeyRing, key_ring, new_seed, read_seed, write_seed

PASSPHRASE_VARIABLE = "METERGATE_PASSPHRASE"  # noqa: S105  (a name, not a secret)
PASSPHRASE_MIN = 8

_TEMPLATE = """\
# Metergate gateway. Every key is checked at start; a misspelt one is refused by name.

gateway = "{gateway}"            # letters, digits, _ and -; devices are provisioned with it
data_dir = "data"             # the journal lives here: back it up
key_file = "keys.json"        # the seed of all keys, encrypted: back it up, apart from the data
{passphrase}
lanes = 4                     # receiver keys; claims of different lanes settle in parallel

{mqtt}
[chain]
url = "http://127.0.0.1:8545" # JSON-RPC of an EVM chain
chain_id = 31402
asset = "{asset}"   # the stablecoin: 6 decimals, ERC-20 and ERC-3009
payouts = "{payouts}" # CumulativePayouts
confirmations = 0             # blocks on top of one before its events count
poll_ms = 250

[offer]
withdraw_delay = 86400        # seconds a payer waits to take money back: at least twice the longest outage
min_deposit = "1000000"       # base units: 1 token
max_ahead = "5000000"         # how far a voucher may run ahead of what is owed
grace = 900                   # seconds an old offer stays usable
valid_days = 30

[settlement]
every_s = 600
fee_bps = 100                 # the operator's share of what devices earn, in 1/100 of a percent
rows_max = 100
# coin_price = "2500000000"   # what a coin costs in base units: gas is weighed then, and small amounts wait
# exposure_total_max = "0"    # most that may stay unclaimed in all; also exposure_channel_max and exposure_party_max

[gas]                         # coins for gas, in wei
low = "1000000000000000"      # a lane or the treasury below this is refilled from the operator's key
refill_to = "5000000000000000"

[backup]
every_hours = 0               # 24 writes a backup a day into dir
dir = "backups"
keep = 7

[pipeline]
batch_max = 512
window_ms = 100

[web]                         # dashboard, API and metrics
enabled = true
# host = "127.0.0.1"          # others reach it with TLS only, and once there is an operator
# port = 8402
# tls_cert = "web.pem"
# tls_key = "web.key"
# public_url = "https://meters.example.org"  # when a proxy with TLS stands before it
# metrics_token_file = "metrics-token"       # opens /metrics for Prometheus

# Prices are integers of 10^-9 base units per unit: 150000000000 is 0.15 tokens per kWh.
[services.grid-power]
unit = "Wh"
price = "150000000000"
direction = "pay"
max_step = 1000000

[services.solar-export]
unit = "Wh"
price = "80000000000"
direction = "earn"
max_step = 1000000
"""


_MQTT = """\
[mqtt]
host = "127.0.0.1"
port = 1883
protocol = "3.1.1"            # or "5"
# username = "gateway"
# password_file = "mqtt-password"
# tls_ca = "/etc/ssl/certs/ca-certificates.crt"
# With TLS and per-device ACLs the broker proves who publishes, and readings need no signature of their own:
# authenticated_devices = true
"""
_MQTT_OWN = """\
[mqtt]
host = "{host}"
port = {port}
protocol = "3.1.1"            # or "5"
username = "{user}"
password_file = "broker/gateway-password"
tls_ca = "broker/ca.pem"
# With TLS and per-device ACLs the broker proves who publishes, and readings need no signature of their own:
authenticated_devices = true
"""


def init(options: argparse.Namespace) -> int:
    """Write `metergate.toml` and `keys.json`; never over older ones."""
    from settlement.genesis import PAYOUTS_ADDRESS, TOKEN_ADDRESS

    if not is_id(options.gateway):
        raise SetupError(f"the gateway id {options.gateway!r} is not 1 to 64 letters, digits, _ and -.")
    directory: Path = options.dir
    config, keys = directory / "metergate.toml", directory / "keys.json"
    for path in (config, keys, *([directory / DIRECTORY] if options.broker else [])):
        if path.exists():
            raise SetupError(f"{path} exists and is never overwritten: move it away, or choose another --dir.")
    passphrase = _passphrase(options.passphrase_file, new=True)
    line = '# passphrase_file = "passphrase" # else METERGATE_PASSPHRASE, or a prompt'
    if options.passphrase_file is not None:
        # A JSON string is a TOML string too, whatever is in the path.
        line = f"passphrase_file = {json.dumps(str(options.passphrase_file.resolve()), ensure_ascii=False)}"
    text = _TEMPLATE.format(
        gateway=options.gateway,
        passphrase=line,
        mqtt=_MQTT
        if options.broker is None
        else _MQTT_OWN.format(host=options.broker, port=PORT, user=gateway_user(options.gateway)),
        asset=f"0x{TOKEN_ADDRESS.hex()}",
        payouts=f"0x{PAYOUTS_ADDRESS.hex()}",
    )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if options.broker is not None:
            write_broker_files(directory / DIRECTORY, options.gateway, options.broker)
        seed = new_seed()
        write_seed(keys, seed, passphrase)
        config.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SetupError(f"cannot write to {directory}: {error.strerror}.") from error
    ring = key_ring(seed, 4)
    if options.json:
        print(json.dumps(_made(options, config, keys, ring)))
        return 0
    print(f"wrote {config} and {keys}. Back up {keys} and its passphrase: without them the money is out of reach.")
    if options.broker is not None:
        print(f"wrote a mosquitto's files to {directory / DIRECTORY}: mosquitto -c {directory / DIRECTORY / SETTINGS}")
    print("Send coins for gas to the operator; the others are refilled from it:")
    for name, key in (("operator", ring.operator), ("treasury", ring.treasury)):
        print(f"  {name:<10}0x{key.address.hex()}")
    for index, key in enumerate(ring.lanes):
        print(f"  lane {index:<5}0x{key.address.hex()}")
    print(f"receiverAuthorizer 0x{ring.authorizer.address.hex()} signs offers: provision devices with it.")
    return 0


def _made(options: argparse.Namespace, config: Path, keys: Path, ring: KeyRing) -> dict[str, object]:
    """Return what `init` made, for a program: files, and addresses in 0x-hex."""
    return {
        "gateway": options.gateway,
        "config": str(config),
        "keys": str(keys),
        "broker": None if options.broker is None else str(config.parent / DIRECTORY),
        "operator": f"0x{ring.operator.address.hex()}",
        "treasury": f"0x{ring.treasury.address.hex()}",
        "lanes": [f"0x{key.address.hex()}" for key in ring.lanes],
        "receiverAuthorizer": f"0x{ring.authorizer.address.hex()}",
    }


def open_keys(config: Config) -> KeyRing:
    """Return the keys of a configuration. Raises SetupError for a missing file or a wrong passphrase."""
    path = Path(config.key_file)
    if not path.exists():
        raise SetupError(f"the key file {path} is missing: `metergate init` makes one; a lost one needs its backup.")
    secret = Path(config.passphrase_file) if config.passphrase_file else None
    return key_ring(read_seed(path, _passphrase(secret, new=False)), config.lanes)


def _passphrase(path: Path | None, *, new: bool) -> bytes:
    if path is not None:
        try:
            secret = path.read_bytes().strip()
        except OSError as error:
            raise SetupError(f"cannot read the passphrase file {path}: {error.strerror}.") from error
    elif PASSPHRASE_VARIABLE in os.environ:
        secret = os.environ[PASSPHRASE_VARIABLE].encode()
    elif sys.stdin.isatty():
        secret = getpass.getpass("passphrase of the keys: ").encode()
        if new and getpass.getpass("once more: ").encode() != secret:
            raise SetupError("the two passphrases differ.")
    else:
        raise SetupError(f"the keys need a passphrase: set {PASSPHRASE_VARIABLE}, or name a passphrase_file.")
    if new and len(secret) < PASSPHRASE_MIN:
        raise SetupError(f"a passphrase needs at least {PASSPHRASE_MIN} characters.")
    return secret
