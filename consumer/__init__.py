"""The consumer library: `consumer.Consumer` is its front door.

`handout` is what the user takes from, `fetcher` and `positioner` fill it, `assignment_state` is the pure middle; `membership` and what stands
behind it belong to groups; `reading` are bounded reads.
"""
