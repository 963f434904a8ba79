"""Settlement: netting, planning and books (pure), and the execution layer, reached only by Ethereum JSON-RPC.

Nothing here knows MQTT, SQL or HTTP pages; what is kept on disk is handed to callbacks of the gateway.
"""
