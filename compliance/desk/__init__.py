"""The auditor's desk: a web page over logs and bundles, read only, without any script."""
