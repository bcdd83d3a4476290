"""What the front costs, beside no gateway, a splice that parses nothing, and the gateways that others use.

All carry the same load to the same scripted worker, in turns; then our front alone is held to its promises.
"""
