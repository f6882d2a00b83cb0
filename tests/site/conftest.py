from tests.serving import make_zenglow, prepared_data  # noqa: F401  (fixtures)
