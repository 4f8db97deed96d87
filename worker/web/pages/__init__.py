"""The pages: each module has `PAGES`, and `CHANGES` if its pages have forms; `worker.web.server` lists them."""
