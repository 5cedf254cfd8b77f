"""The page: people look instead of reading; rendered here, without a build step."""
