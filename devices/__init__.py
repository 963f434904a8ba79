"""The device side: topics, bounded codecs, offers, enrolment rules and the one MQTT client.

Everything that arrives here comes from outside and is judged before anything else sees it. Nothing in this
package knows SQL, a chain or HTTP, and it imports only `channels`.
"""
