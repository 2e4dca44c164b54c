"""What several tests share; never imported by the product."""

from helpers import typechecked as typechecked  # jaxtyping looks it up as an attribute
