"""The log: typed in, typed out. Rows and their chain, names and schemas, the writer, and named readers."""
