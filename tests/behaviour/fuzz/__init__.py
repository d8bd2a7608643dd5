"""Random small models, put together from forms that others' models have: plain against transformed."""
