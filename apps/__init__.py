"""Applications driven by a learned edge map; each sub-package stands alone and imports only `autolink`."""
