"""Rows read ahead, sent to gateways, put in order."""
