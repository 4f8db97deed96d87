"""Windows that wait for the device, and the batches that are made of them."""
