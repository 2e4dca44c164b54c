"""What a circuit does: faithfulness, the roles of its heads, and differences between circuits."""
