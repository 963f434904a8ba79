"""Simulated metering firmware: devices that pay and earn over MQTT, written from docs/protocol.md alone."""

__version__ = "0.1.0"
FIRMWARE = f"firmware-sim/{__version__}"
